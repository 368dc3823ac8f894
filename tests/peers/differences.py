"""What is meant to differ from transformers' own models, each with its reason."""

from fnmatch import fnmatch

import transformers

SDPA = "a backbone that runs with sdpa has no attentions: transformers returns an empty tuple, ours refuses"
OPACITY = "the last plane of such a picture of Pillow is opacity, no stain: only grey and RGB pictures are read"
DIFFERENCES = {
    "*::test_model_get_set_embeddings": "pixels are embedded by a convolution, as in ViT, not by a table of tokens",
    "*LabelClassifier::test_problem_types": "there is no regression: a configuration for one is refused",
    "TestConvolutionalBackbone::test_*gradient_checkpointing_*": "ResNet has no gradient checkpointing",
    "TestConvolutionalBackbone::test_hidden_states_output": "the hidden states of ResNet are feature maps, not tokens",
    "TestTransformerBackbone::test_capture_outputs_decorator": SDPA,
    "TestTransformerBackbone::test_eager_matches_sdpa_inference_*_output_attentions": SDPA,
    "TestTransformerBackbone::test_model_outputs_equivalence": SDPA,
    "TestPreTraining::test_retain_grad_hidden_states_attentions": (
        "the hidden states of two views are joined after the encoder has used them"
    ),
    "TestTwoChannels::test_call_pil": OPACITY,
    "TestFourChannels::test_call_pil": OPACITY,
    "*Channels::test_call_numpy_4_channels": (
        "gives mean and deviation of RGB: ours scales to the crop's minimum and maximum and refuses foreign settings"
    ),
    "*Channels::test_image_processor_from_dict_with_kwargs_has_attributes": "channels are stains, never made RGB",
    "*Channels::test_new_models_require_torchvision_backend": "nothing of torchvision is needed: the code is torch's",
}
if transformers.__version__ == "5.18.0":
    DIFFERENCES["TestTransformerBackbone::test_can_capture_specific_layers_hidden_states"] = (
        "transformers 5.18 counts layers instead of hidden states, ours do as later versions in every one"
    )


def reason_for(case: str, test: str) -> str | None:
    """Why a test of a case is meant to fail; None if it is not."""
    return next((reason for pattern, reason in DIFFERENCES.items() if fnmatch(f"{case}::{test}", pattern)), None)
