"""What the embeddings of the recipe `small` look like: maps, confusion, and where each pooling head looks.

Takes the folder of `subcell embed SHARDS --model RUN/model --output FOLDER` and draws two pictures into `--images`:

* `small_map.webp`: the test cells laid out by UMAP, coloured by location (cells with one location), by cell line, by
  plate, and by whether the border of the field cuts them; how often cells of one location or line are taken for
  another, by probes that learn from the train split.
* `small_attention.webp`: the attention of each pooling head in two test cells of each cell line, whole ones if it has
  any.

    PYTHONPATH=. python benchmarks/small_pictures.py FOLDER [--images docs/images]
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from skimage.transform import resize

from benchmarks.embeddings import Floats
from benchmarks.learning import predict_lines
from subcell_hf.evaluation.localization.probes import LinearProbe
from subcell_hf.report.projection import project_cells
from subcell_hf.tables.cell_pictures import CellPicture, iterate_pictures
from subcell_hf.tables.embedding_table import EmbeddingTable
from subcell_hf.tables.files import read_table

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

SPLITS = ("train", "validation", "test")
CELLS_ON_MAP = 4000
LOCATIONS_SHOWN = 10
LINE_HEADS = 3  # cell_pooling_heads of the recipe


def draw_map(axes: Axes, positions: Floats, names: npt.NDArray[np.str_], title: str, legend: bool = True) -> None:
    """Cells as dots, a colour for each name; those without a name are grey.

    Args:
        axes: Where to draw.
        positions: `[cells, 2]`.
        names: `[cells]`.
        title: Above the map.
        legend: Whether to say which colour is which.
    """
    axes.scatter(*positions[names == ""].T, s=2, color="0.85", linewidths=0)
    shown = [name for name in dict.fromkeys(sorted(names)) if name]
    colours = plt.get_cmap("tab20" if len(shown) > 10 else "tab10")
    for number, name in enumerate(shown):
        axes.scatter(*positions[names == name].T, s=3, color=colours(number % colours.N), linewidths=0, label=name)
    axes.set(title=title, xticks=[], yticks=[], box_aspect=1)
    if legend:
        axes.legend(markerscale=4, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)


def draw_confusion(axes: Axes, truth: npt.NDArray[np.str_], predicted: npt.NDArray[np.str_], title: str) -> None:
    """Shares of the cells of each row that are taken for each column.

    Args:
        axes: Where to draw.
        truth: `[cells]`.
        predicted: `[cells]`, of the names in `truth`.
        title: Above the picture.
    """
    names = sorted(set(truth))
    shares = np.array([[np.mean(predicted[truth == row] == column) for column in names] for row in names])
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            axes.text(column, row, f"{share:.2f}".lstrip("0"), ha="center", va="center", fontsize=6,
                      color="white" if share > 0.5 else "black")  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(title=title, xlabel="predicted", ylabel="true")


def single_locations(table: EmbeddingTable) -> npt.NDArray[np.str_]:
    """The location of cells that have one of those alone that test cells have most; others are empty, `[cells]`."""
    cells = table.cells
    alone = cells["locations"].where(~cells["locations"].str.contains(";"), "")
    frequent = alone[(cells["split"] == "test") & (alone != "")].value_counts().index[:LOCATIONS_SHOWN]
    return alone.where(alone.isin(frequent), "").to_numpy(str)


def predict_locations(parts: list[EmbeddingTable], names: list[npt.NDArray[np.str_]]) -> npt.NDArray[np.str_]:
    """The location of test cells with one location, by a linear probe that learns from such cells of the train split.

    Args:
        parts: Train, validation and test cells.
        names: Their locations, see `single_locations`.

    Returns:
        `[test cells with a name]`.
    """
    classes = np.array(sorted(set(names[0]) - {""}))
    kept = [np.flatnonzero(np.isin(own, classes)) for own in names]
    onehot = [(own[rows][:, None] == classes).astype(np.uint8) for own, rows in zip(names, kept, strict=True)]
    features = [part.embeddings[rows] for part, rows in zip(parts, kept, strict=True)]
    likely = LinearProbe().fit_predict(features[0], onehot[0], features[1], onehot[1], features[2])[0]
    found: npt.NDArray[np.str_] = classes[likely.argmax(axis=1)]
    return found


def draw_maps(parts: list[EmbeddingTable], names: list[npt.NDArray[np.str_]], path: Path) -> None:
    """Draw `small_map.webp`.

    Args:
        parts: Train, validation and test cells.
        names: Their locations, see `single_locations`.
        path: File to write.
    """
    lines = [part.cells["cell_line"].to_numpy(str) for part in parts]
    test = parts[2]
    rows = np.sort(np.random.default_rng(0).permutation(len(test))[:CELLS_ON_MAP])
    positions = project_cells(test.embeddings[rows], 0).positions
    cut = np.where(test.cells["qc_cut_by_border"].astype(bool), "cut", "whole")
    figure, axes = plt.subplots(2, 3, figsize=(16, 9.5), layout="constrained")
    draw_map(axes[0, 0], positions, names[2][rows], "Location of the protein (grey: several, or a rarer one)")
    draw_map(axes[0, 1], positions, lines[2][rows], "Cell line")
    draw_map(axes[1, 0], positions, test.cells["plate"].to_numpy(str)[rows], "Plate, a colour each", legend=False)
    draw_map(axes[1, 1], positions, cut[rows], "Cut by the border of the field")
    truth = names[2][np.isin(names[2], sorted(set(names[0]) - {""}))]
    draw_confusion(axes[0, 2], truth, predict_locations(parts, names), "Locations of new antibodies, linear probe")
    codes, numbers = np.unique(np.concatenate(lines), return_inverse=True)
    split_numbers = [part.astype(np.int32) for part in np.split(numbers, np.cumsum([len(own) for own in lines])[:-1])]
    predicted = codes[predict_lines([part.embeddings for part in parts], split_numbers)]
    draw_confusion(axes[1, 2], lines[2], predicted, "Cell lines of new antibodies, linear probe")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def choose_pictures(folder: Path, test: EmbeddingTable) -> list[tuple[str, str, CellPicture]]:
    """Line, location and picture of two test cells of each line, with different locations; whole cells come first."""
    known = test.cells[~test.cells["locations"].str.contains(";")].set_index("cell_id")
    pictures = [picture for picture in iterate_pictures(folder) if picture.cell_id in known.index]
    pictures.sort(key=lambda picture: bool(known.loc[picture.cell_id, "qc_cut_by_border"]))
    by_line: dict[str, dict[str, CellPicture]] = {}
    for picture in pictures:
        line, location = (str(value) for value in known.loc[picture.cell_id, ["cell_line", "locations"]])
        by_line.setdefault(line, {}).setdefault(location, picture)
    chosen = []
    for number, (line, own) in enumerate(sorted(by_line.items())):
        named = list(own.items())
        # Other places of the list for other lines, so that not all show the same locations.
        chosen += [(line, *named[(number + place) % len(named)]) for place in range(2)]
    return chosen


def draw_attention(cells: list[tuple[str, str, CellPicture]], path: Path) -> None:
    """Draw `small_attention.webp`: a row for each cell, its picture and then its attention head by head."""
    heads = next(len(picture.attention) for _, _, picture in cells if picture.attention is not None)
    figure, axes = plt.subplots(len(cells), heads + 1, figsize=(1.25 * (heads + 2), 1.3 * len(cells)))
    figure.subplots_adjust(left=0.16, right=0.99, top=0.95, bottom=0.01, wspace=0.05, hspace=0.05)
    for row, (line, locations, picture) in enumerate(cells):
        pixels = picture.composite_pixels()
        mask = picture.cell_mask()
        pixels = pixels if mask is None else pixels * mask[..., None]
        axes[row, 0].imshow(pixels)
        axes[row, 0].set_ylabel(f"{line}\n{locations}", rotation=0, ha="right", va="center", fontsize=7)
        assert picture.attention is not None
        for head, seen in enumerate(picture.attention.astype(np.float32)):
            smooth = resize(seen / seen.max(), pixels.shape[:2], order=1)
            axes[row, head + 1].imshow(pixels.mean(-1), cmap="gray", vmax=255)
            axes[row, head + 1].imshow(smooth, cmap="inferno", alpha=0.6, vmin=0, vmax=1)
    for head, axis in enumerate(axes[0, 1:]):
        axis.set_title(f"cell {head + 1}" if head < LINE_HEADS else f"protein {head + 1 - LINE_HEADS}", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main() -> None:
    """Read the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output of subcell embed")
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    table = read_table(arguments.folder)
    split = table.cells["split"].to_numpy(str)
    parts = [table.select(split == name) for name in SPLITS]
    locations = single_locations(table)
    draw_maps(parts, [locations[split == name] for name in SPLITS], arguments.images / "small_map.webp")
    draw_attention(choose_pictures(arguments.folder, parts[2]), arguments.images / "small_attention.webp")


if __name__ == "__main__":
    main()
