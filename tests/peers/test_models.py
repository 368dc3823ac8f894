"""Every SubCell model under `ModelTesterMixin`, `ConfigTester` and the training mixin."""

import copy
import json
import unittest
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.modeling_subcell import SubCellForImageClassification, SubCellModel
from subcell_hf.model.modeling_subcell_pretraining import SubCellForPreTraining

from .common_tests import common_tests

ModelTesterMixin = common_tests("test_modeling_common").ModelTesterMixin
ConfigTester = common_tests("test_configuration_common").ConfigTester
TrainingTesterMixin = common_tests("test_training_mixin").TrainingTesterMixin

SMALL: dict[str, Any] = {
    "channels": ["red", "blue", "green"], "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 37, "image_size": 32, "patch_size": 8, "pooling_hidden_size": 16, "pooling_dropout": 0.0,
    "id2label": {0: "nucleus", 1: "cytosol"}, "classifier_hidden_sizes": [16], "classifier_ensemble_size": 2,
    "classifier_dropout": 0.0, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 24, "projection_hidden_sizes": [16],
    "projection_size": 8, "centroid_hidden_sizes": [16], "probe_dropout": 0.0,
}  # fmt: skip
BACKBONES = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8},
}


def backbone(kind: str) -> dict[str, Any]:
    """Every setting of a small backbone, as a configuration that holds it saves them."""
    config = AutoConfig.for_model(kind, num_channels=3, **BACKBONES[kind])
    return json.loads(SubCellConfig(**SMALL, backbone_config=config).to_json_string())["backbone_config"]


class Tester:
    """What the mixins ask of a model's tester.

    Args:
        batch_size: Cells of a batch.
        **settings: Fields of the configuration.
    """

    is_training = True

    def __init__(self, batch_size: int = 3, **settings: Any):
        self.batch_size = batch_size
        self.settings = {**SMALL, **settings}
        for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "image_size", "patch_size"):
            setattr(self, name, self.settings[name])
        self.num_channels = len(self.settings["channels"])
        tokens_of_a_place = self.num_channels if self.settings.get("channel_tokens") == "separate" else 1
        self.seq_length = 1 + tokens_of_a_place * (self.settings["image_size"] // self.settings["patch_size"]) ** 2

    def get_config(self) -> SubCellConfig:
        """A new configuration."""
        return SubCellConfig(**copy.deepcopy(self.settings), vocab_size=0)  # the training mixin reads it

    def prepare_config_and_inputs_for_common(self) -> tuple[SubCellConfig, dict[str, Tensor]]:
        """A configuration and the arguments of `forward`."""
        pixels = torch.rand(self.batch_size, self.num_channels, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": pixels}


class ModelCase(ModelTesterMixin):
    """What all cases have in common."""

    test_resize_embeddings = False
    tester_class = Tester
    settings: dict[str, Any] = {}

    def setUp(self) -> None:
        self.model_tester = self.tester_class(**self.settings)
        given = {name: value for name, value in self.model_tester.settings.items() if name != "id2label"}
        self.config_tester = ConfigTester(self, config_class=SubCellConfig, has_text_modality=False, **given)
        # What fails in a part must fail the test: an expected failure knows no parts.
        vars(self)["subTest"] = lambda *_, **__: nullcontext()

    def test_config(self) -> None:
        self.config_tester.run_common_tests()


class EncoderTester(Tester):
    is_training = False  # an encoder has no loss


class EncoderCase(ModelCase):
    all_model_classes = (SubCellModel,)
    tester_class = EncoderTester


class TestGatedSincosEncoder(EncoderCase, unittest.TestCase):
    settings = {"pooling_type": "gated", "position_embedding_type": "sincos"}


class TestLearnedMeanEncoder(EncoderCase, unittest.TestCase):
    settings = {"pooling_type": "mean", "position_embedding_type": "learned"}


class TestClsEncoder(EncoderCase, unittest.TestCase):
    settings = {"pooling_type": "cls"}


class TestSeparateChannelsEncoder(EncoderCase, unittest.TestCase):
    settings = {"channel_tokens": "separate"}


class TestConvolutionalPatches(EncoderCase, unittest.TestCase):
    settings = {"patch_embedding_type": "convolutional"}


class TestConvolutionalBackbone(EncoderCase, unittest.TestCase):
    settings = {"backbone_config": backbone("resnet"), "hidden_size": 16}
    has_attentions = False


class TestTransformerBackbone(EncoderCase, unittest.TestCase):
    settings = {"backbone_config": backbone("dinov2"), "pooling_type": "mean"}


class ClassifierCase(ModelCase, TrainingTesterMixin):
    all_model_classes = (SubCellForImageClassification,)

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        return inputs | {"labels": self.labels(self.model_tester.batch_size)} if return_labels else inputs

    def _get_model_modality(self) -> str:
        return "text"  # the only one that the training mixin makes batches for, which ours stands in for

    def _create_text_training_batch(self, batch_size: int, seq_length: int, vocab_size: int) -> dict[str, Tensor]:
        pixels = torch.rand(batch_size, 3, self.model_tester.image_size, self.model_tester.image_size)
        return {"pixel_values": pixels, "labels": self.labels(batch_size)}


class TestMultiLabelClassifier(ClassifierCase, unittest.TestCase):
    settings = {"problem_type": "multi_label_classification"}

    def labels(self, cells: int) -> Tensor:
        return torch.eye(2)[torch.arange(cells) % 2]


class TestSingleLabelClassifier(ClassifierCase, unittest.TestCase):
    settings = {"problem_type": "single_label_classification"}

    def labels(self, cells: int) -> Tensor:
        return torch.arange(cells) % 2


class PreTrainingTester(Tester):
    """Two views of every cell, and the antibodies that training asks for."""

    def prepare_config_and_inputs_for_common(self) -> tuple[SubCellConfig, dict[str, Tensor]]:
        config, inputs = super().prepare_config_and_inputs_for_common()
        views = torch.stack([inputs["pixel_values"], inputs["pixel_values"].flip(-1)], dim=1)
        return config, {"pixel_values": views, "antibodies": torch.arange(self.batch_size) // 2}


class TestPreTraining(ModelCase, unittest.TestCase):
    all_model_classes = (SubCellForPreTraining,)
    tester_class = PreTrainingTester

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if "noise" in inputs:  # the tests draw it for one view
            inputs["noise"] = torch.stack([inputs["noise"], inputs["noise"].flip(-1)], dim=1)
        if return_labels:
            inputs["locations"] = torch.eye(2)[torch.arange(self.model_tester.batch_size) % 2]
        return inputs
