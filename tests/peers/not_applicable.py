"""Tests that transformers skips for a model or a processor that lacks what they are about; they are not collected.

The features of the lists decide which tests these are; `test_differences.py` checks that transformers itself skips
every one of them.
"""

import unittest
from fnmatch import fnmatch

ALL_BUT_DINOV2 = ("Test*Encoder", "TestConvolutionalBackbone", "*LabelClassifier", "TestPreTraining")
NOT_APPLICABLE = {
    "pixels are the input: there are no tokens and no table of their embeddings": (
        "*::test_inputs_embeds", "*Encoder::test_inputs_embeds_matches_input_ids",
        "*Backbone::test_inputs_embeds_matches_input_ids", "*::test_resize_*embeddings*",
    ),
    "there is no language model": (
        "*::test_causal_lm_loss_honors_shift_labels", "*::test_encoder_decoder_loss_no_double_shift",
    ),
    "there are no rotary positions": ("*::test_model_rope_*", "*::test_vision_axial_rope"),
    "there are no experts": ("*::test_*router_logits*", "*::test_eager_matches_batched_and_grouped_inference_*"),
    "there is no sliding window": ("*::test_sliding_window_mask",),
    "the model is not composed of others that choose an attention of their own": (
        "*::test_attn_implementation_composite_models", "*::test_can_set_attention_dynamically_composite_model",
        "*::test_sdpa_can_dispatch_composite_models",
    ),
    "there is no plan of tensor parallelism": ("*::test_*tp_plan*",),
    "weights are not renamed when they are loaded, but for those of the DINOv2 backbone": tuple(
        f"{case}::{test}"
        for case in ALL_BUT_DINOV2
        for test in ("test_can_load_from_already_mapped_keys", "test_reverse_loading_mapping")
    ),
    "no module is kept in float32": ("*::test_keep_in_fp32_modules*",),
    "transformers initialises missing weights of chosen models only": ("*::test_can_init_all_missing_weights",),
    "outputs are captured without transformers' decorator; only the DINOv2 backbone has it": tuple(
        f"{case}::{test}"
        for case in ALL_BUT_DINOV2
        for test in ("test_can_capture_specific_layers_hidden_states", "test_capture_outputs_decorator")
    ),
    "an encoder has no loss": tuple(
        f"{case}::{test}"
        for case in ("Test*Encoder", "Test*Backbone")
        for test in ("test_training", "test_training_gradient_checkpointing*", "test_enable_input_require_grads_with_*")
    ),
    "the loss needs more inputs than the test gives": (
        "*LabelClassifier::test_enable_input_require_grads_with_*",
        "TestPreTraining::test_enable_input_require_grads_with_*",
    ),
    "the ensemble of classifiers has no single last layer": (
        "*LabelClassifier::test_can_load_ignoring_mismatched_shapes",
    ),
    "a ResNet has no attention": (
        "TestConvolutionalBackbone::test_attention_outputs",
        "TestConvolutionalBackbone::test_can_set_attention_dynamically",
        "TestConvolutionalBackbone::test_eager_matches_sdpa_inference_*",
        "TestConvolutionalBackbone::test_sdpa_can_dispatch_non_composite_models",
    ),
    "the processor has one backend, of torch alone": (
        "*Channels::test_backends_equivalence*", "*Channels::test_fast_image_processor_explicit_none_preserved",
        "*Channels::test_save_load_backends*", "*Channels::test_pil_can_*_without_torchvision",
    ),
    "the processor checks its arguments itself": ("*Channels::test_image_processor_preprocess_arguments",),
    "the processor has no mean of RGB": (
        "*Channels::test_override_instance_attributes_does_not_affect_other_instances",
    ),
}  # fmt: skip


def is_not_applicable(case: str, test: str) -> bool:
    """Whether a test of a case is on the list."""
    return any(fnmatch(f"{case}::{test}", pattern) for patterns in NOT_APPLICABLE.values() for pattern in patterns)


def missing_for(case: type[unittest.TestCase], test: str) -> str | None:
    """What transformers' own decorators of a test say that this machine or its settings lack; None if nothing."""
    function = getattr(case, test)
    return str(function.__unittest_skip_why__) if getattr(function, "__unittest_skip__", False) else None
