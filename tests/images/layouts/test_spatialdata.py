"""SpatialData stores as fields of view: which labels are the mask of which image, and how large pixels are.

What the library itself writes is read in tests/partners.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from subcell_hf.images.fields_of_view import FieldError, ReadingOptions, find_fields, list_fields
from tests.images.written_fields import COLOURS, label_mask
from tests.outside.written_zarr import describe, stack, write_plate

MASK = label_mask((64, 64))
Ways = Sequence[tuple[str, str, list[dict[str, Any]]]]


def _tile(number: int, unit: str = "unit", edge: float = 0.1) -> Ways:
    """As spatialdata-io places fields of view: by themselves, and beside each other in a system of all."""
    scale = {"type": "scale", "scale": [edge, edge]}
    moved = {
        "type": "sequence",
        "transformations": [scale, {"type": "translation", "translation": [0.0, 64 * edge * number]}],
    }
    return [(f"tile {number}", "unit", [{"type": "identity"}]), ("global", unit, [moved])]


def _element(group: zarr.Group, name: str, pixels: npt.NDArray[Any], ways: Ways, version: int) -> None:
    """An image or labels, with coordinate systems as the library writes them."""
    names = "cyx"[3 - pixels.ndim :]
    inner = group.create_group(name)
    inner.create_array("s0", data=pixels)
    described = []
    for system, unit, (way,) in ways:
        axes = [
            {"name": n, "type": "channel" if n == "c" else "space"} | ({} if n == "c" else {"unit": unit})
            for n in names
        ]
        described.append({**_of_axes(way, len(names)), "input": {"name": names, "axes": axes}})
        described[-1]["output"] = {"name": system, "axes": axes}
    axes = [{"name": n, "type": "channel" if n == "c" else "space"} for n in names]
    ones = [{"type": "scale", "scale": [1.0] * len(names)}]
    datasets = [{"path": "s0", "coordinateTransformations": ones}]
    facts: dict[str, Any] = {
        "multiscales": [{"axes": axes, "datasets": datasets, "coordinateTransformations": described}]
    }
    if pixels.ndim == 3:
        facts["omero"] = {"channels": [{"label": colour} for colour in COLOURS]}
    describe(inner, facts, version)


def _of_axes(way: dict[str, Any], count: int) -> dict[str, Any]:
    """A transformation of rows and columns, with what it does to channels."""
    channel = {"scale": 1.0, "translation": 0.0}
    if way["type"] == "sequence":
        return {**way, "transformations": [_of_axes(part, count) for part in way["transformations"]]}
    kind = way["type"]
    return {**way, kind: [channel[kind]] * (count - 2) + way[kind]} if kind in channel else way


def _store(
    path: Path, images: dict[str, Ways], labels: dict[str, Ways], version: int = 3
) -> dict[str, npt.NDArray[Any]]:
    root = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
    root.attrs["spatialdata_attrs"] = {"version": "0.2"}
    group, pixels = root.create_group("images"), {name: stack(seed) for seed, name in enumerate(images)}
    for name, ways in images.items():
        _element(group, name, pixels[name], ways, version)
    group = root.create_group("labels")
    describe(group, {"labels": list(labels)}, version)
    for number, (name, ways) in enumerate(labels.items()):
        _element(group, name, np.roll(MASK, number, axis=1), ways, version)
    root.create_group("tables")
    return pixels


@pytest.mark.parametrize("version", [2, 3])
def test_labels_belong_to_the_image_of_their_size_and_place(tmp_path: Path, version: int) -> None:
    images = {"a": _tile(0, "micrometer"), "b": _tile(1, "nanometer", 200)}
    labels = {"of b": images["b"], "of a": images["a"], "elsewhere": _tile(2)}
    pixels = _store(tmp_path / "s.zarr", images, labels, version)
    first, second = list_fields(tmp_path).fields
    assert [first.name, second.name] == ["s_a", "s_b"]
    for field, name, rolled, size_um in ((first, "a", 1, 0.1), (second, "b", 0, 0.2)):
        assert field.listed.mask_file == tmp_path / "s.zarr/labels" / f"of {name}"
        (alone,) = find_fields(tmp_path / "s.zarr/images" / name)
        for read in (field.read(), alone.read()):
            assert (read.name, read.channels) == (f"s_{name}", COLOURS)
            assert read.pixel_size_um == pytest.approx(size_um)
            np.testing.assert_array_equal(read.pixels, pixels[name])
            np.testing.assert_array_equal(read.label_mask, np.roll(MASK, rolled, axis=1))


def test_what_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    both = [("global", "unit", [{"type": "identity"}])]
    _store(tmp_path / "s.zarr", {"a": both}, {"cells": both, "membranes": both, "shifted": _tile(1)})
    found = list_fields(tmp_path / "s.zarr")
    assert found.fields[0].listed.mask_file is None
    (said,) = found.unused.values()
    assert "label images cells, membranes: none is the cells' for sure" in said
    assert "give this image alone, and choose it (--labels)" in said
    with pytest.raises(FieldError, match=r"pixel size is unknown.*--pixel-size-um"):
        found.fields[0].read()
    (chosen,) = find_fields(tmp_path / "s.zarr", ReadingOptions(labels="membranes", pixel_size_um=0.1))
    np.testing.assert_array_equal(chosen.read().label_mask, np.roll(MASK, 1, axis=1))
    with pytest.raises(FieldError, match=r"No image has the labels 'shifted' .* found cells, membranes"):
        list_fields(tmp_path / "s.zarr", ReadingOptions(labels="shifted"))
    _store(tmp_path / "t.zarr", {"a": both}, {"shifted": _tile(1)})
    ((labels, why),) = list_fields(tmp_path / "t.zarr").unused.items()
    assert labels == str(tmp_path / "t.zarr/labels/shifted")
    assert "the size and the place of none of the images" in why


def test_a_folder_called_images_is_no_store(tmp_path: Path) -> None:
    """The labels inside of an image count there."""
    write_plate(tmp_path / "p.zarr", [stack(1)])
    (tmp_path / "images").mkdir()
    image = (tmp_path / "p.zarr/A/1/0").rename(tmp_path / "images/x.zarr")
    group = zarr.open_group(image, mode="r+").create_group("labels")
    describe(group, {"labels": ["cells"]}, 2)
    _element(group, "cells", MASK, [], 2)
    (field,) = find_fields(tmp_path / "images/x.zarr")
    np.testing.assert_array_equal(field.read().label_mask, MASK)
