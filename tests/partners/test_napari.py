"""The plugin of napari: layers are read as they are displayed, and a user embeds, maps and annotates in a window."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.errors import InputError
from subcell_hf.napari_plugin import guess_layers, linked_layer, read_field
from subcell_hf.types import FieldOfView
from tests.partners import napari_session as session
from tests.workflows.simulated_run import Run

napari = pytest.importorskip("napari", reason="napari is not in this environment")


@pytest.fixture(scope="module")
def field(run: Run) -> FieldOfView:
    return next(iter(run.fields.values()))


def model_viewer() -> Any:
    """A viewer without a window."""
    from napari.components import ViewerModel

    return ViewerModel()


def chosen(viewer: Any) -> dict[str, Any]:
    images = {layer.name: layer for layer in viewer.layers if isinstance(layer, napari.layers.Image)}
    return {colour: images[name] for colour, name in guess_layers([*images]).items()}


def test_layers_are_a_field_of_view(field: FieldOfView) -> None:
    viewer = model_viewer()
    labels = session.add_layers(viewer, field)
    found = read_field(chosen(viewer), labels, viewer.dims)
    assert found.name == field.name
    assert found.pixel_size_um == pytest.approx(field.pixel_size_um)
    assert found.pixel_size_from == "layer"
    assert {*found.channels} == {*field.channels}
    for colour, plane in zip(found.channels, found.pixels, strict=True):
        np.testing.assert_array_equal(plane, field.pixels[field.channels.index(colour)])
    np.testing.assert_array_equal(found.label_mask, field.label_mask)
    given = read_field(chosen(viewer), labels, viewer.dims, name="mine", pixel_size_um=0.3)
    assert (given.name, given.pixel_size_um, given.pixel_size_from) == ("mine", 0.3, "option")


def test_the_displayed_plane_of_a_stack_is_read(field: FieldOfView) -> None:
    viewer = model_viewer()
    plane = field.pixels[0].astype(np.int32)
    stack = viewer.add_image(np.stack([plane, plane // 2, plane // 4]), scale=[2, 0.5, 0.5], units="um")
    labels = viewer.add_labels(np.asarray(field.label_mask).astype(int), scale=[0.5, 0.5], units="um")
    viewer.dims.set_current_step(0, 1)
    found = read_field({"red": stack}, labels, viewer.dims)
    np.testing.assert_array_equal(found.pixels[0], plane // 2)
    assert found.pixels.dtype == np.uint16
    assert found.metadata == {"displayed_plane": "1"}
    assert found.pixel_size_um == 0.5
    viewer.dims.ndisplay = 3
    with pytest.raises(InputError, match="shows a volume"):
        read_field({"red": stack}, labels, viewer.dims)
    viewer.dims.ndisplay = 2
    viewer.dims.order = (1, 0, 2)
    with pytest.raises(InputError, match="section through other axes"):
        read_field({"red": stack}, labels, viewer.dims)


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no labels": (lambda v: (chosen(v), None), "There is no labels layer"),
    "no image": (lambda v: ({}, v.layers[-1]), "No image layer is chosen"),
    "labels of another shape": (
        lambda v: (chosen(v), v.add_labels(np.ones((9, 8), int), name="other")),
        r"shows 512 x 512 px, the labels layer 'other' 9 x 8 px",
    ),
    "image elsewhere": (lambda v: _changed(v, translate=[3, 3]), "differ in scale or place"),
    "no unit": (lambda v: _all(v, units="pixel"), r"pixel size is unknown: the layers have the scale 0\.0800885"),
    "pixels not square": (lambda v: _all(v, scale=[0.08, 0.1]), r"pixels of 0\.08 x 0\.1 um, expected square"),
    "two types": (lambda v: _changed(v, data=np.ones((512, 512), np.float32)), "hold float32 and uint8"),
    "not finite": (lambda v: _changed(v, data=np.full((512, 512), np.nan)), "NaN or infinite"),
    "negative": (lambda v: _changed(v, data=np.full((512, 512), -1)), "from -1 to -1, expected intensities"),
    "rgb": (
        lambda v: ({"red": v.add_image(np.zeros((512, 512, 3), np.uint8), rgb=True, name="rgb")}, v.layers[-2]),
        "'rgb' is RGB, expected one channel",
    ),
}


def _changed(viewer: Any, **changes: Any) -> tuple[dict[str, Any], Any]:
    for name, value in changes.items():
        setattr(viewer.layers["DAPI"], name, value)
    return chosen(viewer), viewer.layers[-1]


def _all(viewer: Any, **changes: Any) -> tuple[dict[str, Any], Any]:
    for layer in viewer.layers:
        for name, value in changes.items():
            setattr(layer, name, value)
    return chosen(viewer), viewer.layers[-1]


@pytest.mark.parametrize("case", WRONG)
def test_layers_that_do_not_fit_are_refused(field: FieldOfView, case: str) -> None:
    viewer = model_viewer()
    session.add_layers(viewer, field)
    make, message = WRONG[case]
    images, labels = make(viewer)
    with pytest.raises(InputError, match=message):
        read_field(images, labels, viewer.dims)


@pytest.fixture(scope="module")
def window() -> Iterator[Any]:
    """One window for the tests below."""
    with session.virtual_screen(), session.open_viewer() as opened:
        yield opened


@pytest.fixture
def viewer(window: Any) -> Any:
    """The window without the layers and widgets of an earlier test."""
    window.window.remove_dock_widget("all")
    window.layers.clear()
    return window


def test_a_user_embeds_maps_and_annotates(
    viewer: Any, run: Run, field: FieldOfView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = session.add_layers(viewer, field)
    embedding = session.open_widget(viewer, "Embed cells")
    assert {colour: str(box.value) for colour, box in embedding.images.items()} == session.LAYER_NAMES
    embedding.model.value, embedding.folder.value = str(run.model), tmp_path / "run"
    session.press(embedding, "Embed cells")
    session.wait_until(lambda: not embedding.job.running)
    link = linked_layer(layer)
    own = run.table.select((run.table.cells["field_of_view"] == field.name).to_numpy())
    np.testing.assert_array_equal(link.cells.table.embeddings, own.embeddings)
    assert layer.features["top_location_1"].tolist() == own.cells["top_location_1"].tolist()
    for row, label in enumerate(own.cells["label"]):
        colour = link.cells.colours("top_location_1").rgba[row]
        np.testing.assert_allclose(layer.get_color(label), colour, atol=0.01)

    cell_map = session.open_widget(viewer, "Map of cells")
    session.press(cell_map, "Draw the map")
    session.wait_until(lambda: not cell_map.job.running)
    session.settle()
    session.click_point(cell_map, 3)
    assert link.selected == 3
    assert layer.selected_label == own.cells["label"][3]
    here = tuple(round(at) for at in layer.world_to_data(viewer.scene.camera.center)[-2:])
    box = own.cells.loc[3, ["top", "left", "height", "width"]]
    assert here == pytest.approx((box.top + (box.height - 1) / 2, box.left + (box.width - 1) / 2), abs=1)
    session.click_label(viewer, layer, int(own.cells["label"][1]))
    assert link.selected == 1
    np.testing.assert_array_equal(cell_map._ring.get_offsets(), cell_map.mapped.positions[[1]])
    assert {"cluster", "top_location_1"} <= set(cell_map.colour.choices)
    cell_map.colour.value = "cluster"
    assert link.coloured_by == "cluster"

    annotation = session.open_widget(viewer, "Annotate cells")
    labels = tmp_path / "labels.jsonl"
    annotation.file.value, annotation.annotator.value = labels, "Ann"
    session.press(annotation, "Start")
    for name in ("round", "long"):
        annotation.new_class.value = name
        session.press(annotation, "Add class")
    first = link.cells.cell_id(link.selected)
    session.press_key(viewer, 1)
    assert link.cells.cell_id(link.selected) != first, annotation.status.value
    session.press(annotation, "Alt-2  long (0)")
    session.press(annotation, "Accept suggestion")
    session.press(annotation, "Undo")
    records = [json.loads(line) for line in labels.read_text().splitlines()]
    assert [record["action"] for record in records] == ["class", "class", "label", "label", "label", "undo"]
    assert (records[2]["cell_id"], records[2]["class_name"], records[2]["by"]) == (first, "round", "Ann")
    assert records[4]["suggested"] == records[4]["class_name"]
    assert records[2]["weights_sha256"] == own.provenance["models"][0]["weights_sha256"]
    assert link.coloured_by == "class"
    faint = link.cells.colours("class").rgba[:, 3] < 1
    assert faint.sum() == len(own) - 2
    session.press(annotation, "Export")
    session.wait_until(lambda: not annotation.job.running)
    assert (tmp_path / "labels-export" / "classifier" / "config.json").is_file(), annotation.status.value


def test_what_cannot_be_done_is_said_in_the_widget(viewer: Any, run: Run, field: FieldOfView, tmp_path: Path) -> None:
    layer = session.add_layers(viewer, field, units="pixel")
    embedding = session.open_widget(viewer, "Embed cells")
    embedding.folder.value, embedding.model.value = tmp_path / "run", str(run.model)
    session.press(embedding, "Embed cells")
    assert "pixel size is unknown" in embedding.status.value
    embedding.pixel_size_um.value = field.pixel_size_um
    embedding.images["blue"].value = None
    session.press(embedding, "Embed cells")
    session.wait_until(lambda: not embedding.job.running)
    assert "channel blue is missing" in embedding.status.value
    assert not (tmp_path / "run").exists()
    embedding.folder.line_edit.value = ""
    session.press(embedding, "Open run")
    assert "No folder is chosen" in embedding.status.value
    cell_map = session.open_widget(viewer, "Map of cells")
    session.press(cell_map, "Draw the map")
    assert "are not embedded" in cell_map.status.value
    embedding.folder.value = run.folder
    session.press(embedding, "Open run")
    assert {*linked_layer(layer).cells.row_of} == {*np.unique(np.asarray(field.label_mask)).tolist()} - {0}
    assert len(linked_layer(layer).cells.table) == len(run.table)
    assert cell_map.link is linked_layer(layer)
    assert cell_map.colour.value == "top_location_1"
    linked_layer(layer).select(len(run.table) - 1)  # of the other field
    assert "not on this layer" in viewer.status


def test_embedding_is_cancelled_and_resumed(viewer: Any, run: Run, field: FieldOfView, tmp_path: Path) -> None:
    tiles = np.repeat(np.repeat(np.arange(1, 129).reshape(16, 8), 32, axis=0), 64, axis=1)
    layer = session.add_layers(viewer, replace(field, label_mask=tiles))
    embedding = session.open_widget(viewer, "Embed cells")
    embedding.guess()
    embedding.folder.value, embedding.model.value = tmp_path / "run", str(run.model)
    session.press(embedding, "Embed cells")
    session.wait_until(lambda: embedding.progress.value > 0)
    session.press(embedding, "Cancel")
    session.wait_until(lambda: not embedding.job.running)
    assert embedding.status.value == "Cancelled."
    assert not (tmp_path / "run" / "run.json").exists()
    session.press(embedding, "Embed cells")
    session.wait_until(lambda: not embedding.job.running)
    assert len(linked_layer(layer).cells.row_of) == 128
