"""Exported models as other programs run them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from bioimageio.core import load_description, predict
from bioimageio.core import test_model as check_package
from bioimageio.spec.model.v0_5 import ModelDescr

from subcell_hf.hub.publishing.export import export_model
from subcell_hf.hub.publishing.export_sources import ExportSources
from subcell_hf.model.modeling_subcell import SubCellForImageClassification
from tests.hub.tiny_models import save_tiny, write_facts


@pytest.fixture(scope="module")
def package(folder: Path) -> Path:
    model = save_tiny("SubCellForImageClassification", folder / "tiny")
    sources = ExportSources(facts=write_facts(folder))
    return export_model(model, folder / "exported", sources=sources, bioimageio=True) / "bioimageio.zip"


def test_bioimageio_validates_and_runs_the_package(package: Path) -> None:
    found = check_package(package)
    assert found.status == "passed", found.format()
    described = load_description(package)
    assert isinstance(described, ModelDescr)
    assert described.license == "MIT"
    assert [output.id for output in described.outputs] == ["pooler_output", "pooler_attentions", "probabilities"]


def test_its_prediction_is_that_of_the_model(package: Path, folder: Path) -> None:
    with zipfile.ZipFile(package) as content:
        description = yaml.safe_load(content.read("rdf.yaml"))
        with content.open("test_input.npy") as file:
            given = np.load(file)
    assert given.max() > 1  # intensities as acquired, scaled by the description's own step
    other = np.roll(given, 5, axis=-1) * 2 + 3
    found = predict(model=package, inputs={"pixel_values": other})
    scaled = (other - other.min()) / (other.max() - other.min() + 1e-6)
    model = SubCellForImageClassification.from_pretrained(folder / "tiny").eval()
    expected = model(torch.from_numpy(scaled)).logits.sigmoid().detach().numpy()
    np.testing.assert_allclose(found.members["probabilities"].data.to_numpy(), expected, atol=1e-5)
    assert description["outputs"][2]["axes"][1]["channel_names"] == list(model.config.id2label.values())
