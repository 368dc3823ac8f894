"""What a run was given is read back from its `run.json` with the types that it had; records of version 1 as well."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from subcell_hf.cells.single_cells import CropSettings
from subcell_hf.errors import InputError
from subcell_hf.images.reading_options import ReadingOptions
from subcell_hf.inference.sources.source_options import SourceOptions
from subcell_hf.storage.typed_json import settings_from_json, settings_to_json
from subcell_hf.workflows.embed_input import EmbedInput, read_embed_input

GIVEN = EmbedInput(
    source="images",
    model="auto",
    models="models",
    revision="v1",
    protein_channels=("mito", "agp"),
    mask_cells=False,
    options=SourceOptions(
        ReadingOptions(
            channel_mapping={"DAPI": "blue", "2": "green"},
            channel_names=("blue", "green"),
            pixel_size_um=0.1,
            z_projection=3,
            metadata=Path("cells.csv"),
            trust_masks=True,
        ),
        CropSettings(min_area_um2=2.5, exclude_border=True),
        segmentation="cellpose",
        single_cells=False,
        split="1",
        crop_px=448,
    ),
    command="subcell embed images",
)

OLD_RUN = """{
 "arguments": {
  "actors": "1",
  "channel_mapping": "['DAPI=blue', '2=green']",
  "channel_names": "blue, green",
  "command": "subcell embed images",
  "crop_size_px": "448",
  "device": "auto",
  "engine": "local",
  "exclude_border": "True",
  "h5ad": "True",
  "mask_cells": "False",
  "metadata": "cells.csv",
  "min_area_um2": "2.5",
  "model": "auto",
  "models": "models",
  "output": "run",
  "pictures": "2000",
  "pixel_size_um": "0.1",
  "portable": "False",
  "precision": "auto",
  "protein_channel": "['mito', 'agp']",
  "report": "True",
  "revision": "v1",
  "segmentation": "cellpose",
  "single_cells": "False",
  "source": "images",
  "split": "1",
  "strict": "False",
  "trust_masks": "True",
  "workers": "0",
  "working_folder": ".",
  "z_projection": "3"
 },
 "cells": 10,
 "fingerprint": "0f"
}"""
"""As subcell-hf wrote it before `run.json` had a format number."""


def test_what_a_run_was_given_is_read_back() -> None:
    run = json.loads(json.dumps({"format": 2, "input": settings_to_json(GIVEN)}))
    assert read_embed_input(run) == GIVEN
    plain = EmbedInput("images", "subcell-rybg")
    assert settings_from_json(EmbedInput, json.loads(json.dumps(settings_to_json(plain))), "input") == plain


def test_a_run_of_an_earlier_version_is_read() -> None:
    assert read_embed_input(json.loads(OLD_RUN)) == GIVEN
    assert read_embed_input({"arguments": {"source": "a", "model": "b"}}) == EmbedInput("a", "b")


def test_what_is_no_run_of_a_path_has_no_input() -> None:
    assert read_embed_input({}) is None
    assert read_embed_input({"format": 2, "made_for": "0f"}) is None
    assert read_embed_input({"arguments": {"made_for": "0f"}}) is None


def test_paths_are_found_from_where_the_run_was_started(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").touch()
    options = SourceOptions(ReadingOptions(metadata=Path("cells.csv")))
    given = EmbedInput("gone", "lab/model", options=options, working_folder=str(tmp_path))
    read = read_embed_input({"format": 2, "input": settings_to_json(given)})
    assert read is not None
    assert read.options.reading.metadata == tmp_path / "cells.csv"
    assert [read.find(path) for path in ("gone", "hf://a/cells.csv")] == ["gone", "hf://a/cells.csv"]


def test_plate_maps_and_mapped_folders_are_kept_and_found(tmp_path: Path) -> None:
    for name in ("map.csv", "other.csv"):
        (tmp_path / name).touch()
    (tmp_path / "here").mkdir()
    reading = ReadingOptions(
        plate_maps=(Path("map.csv"), Path("other.csv")),
        path_mapping={"s3://bucket": "here", "C:/data": "/data"},
        illumination=True,
        pattern="(?P<channel>.)",
    )
    given = EmbedInput("load_data.csv", "lab/model", options=SourceOptions(reading), working_folder=str(tmp_path))
    read = read_embed_input(json.loads(json.dumps({"format": 2, "input": settings_to_json(given)})))
    assert read is not None
    assert read.options.reading == ReadingOptions(
        plate_maps=(tmp_path / "map.csv", tmp_path / "other.csv"),
        path_mapping={"s3://bucket": str(tmp_path / "here"), "C:/data": "/data"},
        illumination=True,
        pattern="(?P<channel>.)",
    )


def test_masks_and_a_custom_segmentation_are_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").touch()
    for masks, expected in {"m/{file}.tif": f"{tmp_path}/m/{{file}}.tif", "{file}_cp_masks.tif": "{file}_cp_masks.tif",
                            f"{tmp_path}/{{file}}.tif": f"{tmp_path}/{{file}}.tif"}.items():  # fmt: skip
        options = SourceOptions(ReadingOptions(masks=masks), segmentation="mine.py:cells")
        given = EmbedInput("images", "lab/model", options=options, working_folder=str(tmp_path))
        read = read_embed_input({"format": 2, "input": settings_to_json(given)})
        assert read is not None
        assert (read.options.reading.masks, read.options.segmentation) == (expected, f"{tmp_path}/mine.py:cells")
    given = EmbedInput("images", "lab/model", working_folder=str(tmp_path))
    read = read_embed_input({"format": 2, "input": settings_to_json(given)})
    assert read is not None
    assert read.options.segmentation == "watershed"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"format": 3}, "run.json has format 3, expected 2 or earlier. Update subcell-hf"),
        ({"format": "2"}, "run.json has format '2', expected 2"),
        ({"format": 2, "input": []}, "run.json: input is [], expected an object"),
        ({"format": 2, "input": {"source": "a"}}, "run.json: input lacks the field 'model'"),
        ({"format": 2, "input": {"source": "a", "model": 1}}, "run.json: input.model is 1, expected str"),
        ({"format": 2, "input": {"source": "a", "model": "b", "colour": 1}}, "input has the unknown field 'colour'"),
        (
            {"format": 2, "input": {"source": "a", "model": "b", "options": {"reading": {"z_projection": "min"}}}},
            "input.options.reading.z_projection is 'min', expected",
        ),
        (
            {"format": 2, "input": {"source": "a", "model": "b", "options": {"reading": {"pixel_size_um": "0.1"}}}},
            "input.options.reading.pixel_size_um is '0.1', expected float",
        ),
        (
            {"format": 2, "input": {"source": "a", "model": "b", "protein_channels": ["mito", 2]}},
            "input.protein_channels[1] is 2, expected str",
        ),
        ({"arguments": {"source": "a", "model": "b", "trust_masks": "maybe"}}, "arguments that cannot be read"),
        ({"arguments": {"source": "a", "model": "b", "crop_size_px": "[" * 2000}}, "arguments that cannot be read"),
    ],
)
def test_a_damaged_record_is_named(run: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        read_embed_input(run)
