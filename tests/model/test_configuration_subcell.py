"""The configuration derives, round-trips and refuses."""

import pytest

from subcell_hf import ontology
from subcell_hf.model.configuration_subcell import SubCellConfig
from subcell_hf.model.locations_subcell import REPORTED_LOCATIONS

CONVOLUTIONAL = {"patch_embedding_type": "convolutional"}


def test_defaults_are_the_published_model() -> None:
    config = SubCellConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert config.embedding_size == 1536
    assert config.patch_grid == (28, 28)
    assert (config.mask_ratio, config.reconstruction_weight, config.protein_contrast_weight) == (0.25, 1.0, 0.1)
    assert config.probe_hidden_sizes == [768]
    assert list(config.id2label.values()) == list(ontology.reported_locations())


def test_the_island_and_the_ontology_name_the_same_locations() -> None:
    assert ontology.reported_locations() == REPORTED_LOCATIONS


@pytest.mark.parametrize(
    ("size", "width", "embedding"), [("tiny", 192, 384), ("small", 384, 768), ("large", 1024, 2048)]
)
def test_sizes(size: str, width: int, embedding: int) -> None:
    config = SubCellConfig.from_size(size)
    assert (config.hidden_size, config.embedding_size) == (width, embedding)


def test_round_trip_through_json(tmp_path) -> None:
    config = SubCellConfig.from_size(
        "tiny", channels=("er", "dna", "mito"), image_size=(64, 96), id2label={0: "a", 1: "b"}, pooling_type="mean"
    )
    config.save_pretrained(tmp_path)
    loaded = SubCellConfig.from_pretrained(tmp_path)
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.channels == ["er", "dna", "mito"]
    assert loaded.image_height_width == (64, 96)
    assert loaded.label2id == {"a": 0, "b": 1}


def test_labels_by_number() -> None:
    assert SubCellConfig(num_labels=5).num_labels == 5
    assert SubCellConfig(label2id={"b": 1, "a": 0}).id2label == {0: "a", 1: "b"}


def test_a_backbone_gives_its_width_and_takes_the_channels() -> None:
    config = SubCellConfig(
        channels=["blue", "green"], backbone_config={"model_type": "resnet", "hidden_sizes": [8, 16, 32, 64]}
    )
    assert config.backbone_config.num_channels == 2
    assert (config.hidden_size, config.embedding_size) == (64, 128)
    assert (config.reconstruction_weight, config.mask_ratio) == (0.0, 0.0)


def test_convolutions_leave_nothing_to_hide() -> None:
    config = SubCellConfig(patch_embedding_type="convolutional")
    assert (config.reconstruction_weight, config.mask_ratio, config.separate_patches) == (0.0, 0.0, False)
    SubCellConfig(patch_embedding_type="convolutional", hidden_size=8, num_attention_heads=1)  # one wide, at first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": []}, "channels=\\[\\].*at least one"),
        ({"channels": ["red", "red"]}, "only once"),
        ({"pixel_size_um": 0.0}, "pixel_size_um=0.0.*above 0"),
        ({"patch_size": 0}, "patch_size=0.*whole number"),
        ({"image_size": 450}, "image_size=450.*divisible by patch_size=16"),
        ({"image_size": [448, 448, 3]}, "image_size"),
        ({"hidden_size": 770}, "hidden_size=770.*multiple of 12"),
        ({"position_embedding_type": "rotary"}, "position_embedding_type='rotary'.*'sincos', 'learned'"),
        ({"patch_embedding_type": "conv"}, "patch_embedding_type='conv'.*'linear', 'convolutional'"),
        (CONVOLUTIONAL | {"patch_size": 14}, "patch_size=14.*power of two"),
        (CONVOLUTIONAL | {"patch_size": 1}, "patch_size=1.*power of two"),
        (CONVOLUTIONAL | {"hidden_size": 4, "num_attention_heads": 1}, "hidden_size=4.*at least 8"),
        (CONVOLUTIONAL | {"backbone_config": {"model_type": "resnet"}}, "'linear' with a backbone"),
        (CONVOLUTIONAL | {"mask_ratio": 0.25}, "mask_ratio=0.25.*convolutions see hidden patches"),
        (CONVOLUTIONAL | {"context_mask_ratio": 0.25}, "context_mask_ratio=0.25.*convolutions see hidden patches"),
        (CONVOLUTIONAL | {"reconstruction_weight": 1.0}, "reconstruction_weight=1.0.*convolutions see hidden"),
        ({"pooling_type": "max"}, "pooling_type='max'"),
        ({"pooling_dropout": 1.0}, "pooling_dropout=1.0"),
        ({"problem_type": "regression"}, "problem_type='regression'"),
        ({"projection_type": "conv"}, "projection_type='conv'"),
        ({"classifier_ensemble_size": 0}, "classifier_ensemble_size=0"),
        ({"classifier_hidden_sizes": [512, -1]}, "classifier_hidden_sizes=-1"),
        ({"mask_ratio": 1.0}, "mask_ratio=1.0"),
        ({"cell_contrast_weight": -1.0}, "cell_contrast_weight=-1.0"),
        ({"cell_contrast_temperature": 0.0}, "cell_contrast_temperature=0.0"),
        ({"teacher_momentum": 1.5}, "teacher_momentum=1.5"),
        ({"cell_contrast_positives": "well"}, "cell_contrast_positives='well'.*'cell', 'field_of_view', 'cell_line'"),
        ({"protein_views": "second"}, "protein_views='second'.*'both', 'first'"),
        ({"protein_views": "first", "protein_centroid_weight": 1.0}, "protein_views='first'.*centroid"),
        ({"cell_pooling_heads": 2}, "cell_pooling_heads=2.*0 to 1 of the heads"),
        ({"cell_pooling_heads": -1}, "cell_pooling_heads=-1"),
        ({"cell_pooling_heads": 1, "pooling_type": "mean"}, "cell_pooling_heads=1.*without pooling heads"),
        ({"cell_pooling_heads": 1, "pooling_projection_size": 8}, "cell_pooling_heads=1.*mixes them"),
        ({"cell_pooling_heads": 1, "cell_contrast_weight": 0.0}, "cell_pooling_heads=1.*without cell contrast"),
        ({"decoder_hidden_size": 500}, "decoder_hidden_size=500"),
        ({"focal_gamma": -1.0}, "focal_gamma"),
        ({"id2label": {}}, "id2label"),
        ({"backbone_config": {"hidden_sizes": [8]}}, "model_type"),
        ({"backbone_config": {"model_type": "resnet"}, "pooling_type": "cls"}, "no CLS token"),
        (
            {"backbone_config": {"model_type": "resnet"}, "reconstruction_weight": 1.0},
            "reconstruction_weight=1.0.*ViT only",
        ),
    ],
)
def test_impossible_values_are_refused_with_the_reason(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SubCellConfig(**changes)
