"""Lists the real Human Protein Atlas images of a folder as tables that `subcell crops` and `subcell embed` read.

python recipes/real_fields.py DATA OUTPUT

writes `all.csv`, `four_channels.csv` (those with all four channels), and `train.txt` and `test.txt`: of each location
one montage to learn from and one that is only judged, beside the fields of view.

DATA holds `hpa_fields/` (two fields of view, four channels, no masks), `hpa_montages/` (ten images of nine cells each,
with one location per image) and `hpa_masked_field/` (nucleus and protein, with an instance mask). Antibody, gene, cell
line and annotated locations are those of the Human Protein Atlas where they are known. The montages' antibodies are
not: each image stands for one.
"""

import csv
import sys
from pathlib import Path

FIELDS = {
    "800_A6_1": ("HPA030741", "CCNB1", "A-431", "Cytosol"),
    "89_B5_1": ("HPA011088", "ENSG00000167323", "A-431", "Endoplasmic reticulum"),
}
MASKED = {"383_D2_1": ("HPA034600", "RPL4", "U-251 MG", "Cytosol;Endoplasmic reticulum;Nuclear bodies;Nucleoli")}
COLUMNS = {"red": "r_image", "yellow": "y_image", "blue": "b_image", "green": "g_image"}
HPA_PIXEL_SIZE_UM = 0.0800885  # of the montages' cells too, as the size of their nuclei says


def _row(folder: Path, name: str, suffix: str, facts: tuple[str, ...]) -> dict[str, str]:
    files = {column: folder / f"{name}_{colour}.{suffix}" for colour, column in COLUMNS.items()}
    row = {column: str(path.resolve()) for column, path in files.items() if path.is_file()}
    row |= dict(zip(("antibody", "gene", "cell_line", "locations"), facts, strict=True))
    return row | {"output_prefix": name, "pixel_size_um": str(HPA_PIXEL_SIZE_UM)}


def list_images(data: Path) -> list[dict[str, str]]:
    """One row per image."""
    rows = [_row(data / "hpa_fields", name, "jpg", facts) for name, facts in FIELDS.items()]
    with (data / "hpa_montages" / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["Id"]: row["location"] for row in csv.DictReader(file)}
    rows += [_row(data / "hpa_montages", name, "jpg", (name, name, "", label)) for name, label in labels.items()]
    for name, facts in MASKED.items():
        mask = (data / "hpa_masked_field" / f"{name}_mask.png").resolve()
        rows.append(_row(data / "hpa_masked_field", name, "png", facts) | {"mask": str(mask)})
    return rows


def main(data: Path, output: Path) -> None:
    """Write the tables and the two lists of antibodies."""
    rows = list_images(data)
    output.mkdir(parents=True, exist_ok=True)
    named = ["output_prefix", "mask", "pixel_size_um", "antibody", "gene", "cell_line", "locations"]
    for name, chosen in {"all": rows, "four_channels": [row for row in rows if "r_image" in row]}.items():
        with (output / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*COLUMNS.values(), *named], restval="")
            writer.writeheader()
            writer.writerows(chosen)
    montages = [row["antibody"] for row in rows if row["antibody"] == row["output_prefix"]]
    test = [row["antibody"] for row in rows if row["antibody"] not in montages[::2]]
    (output / "train.txt").write_text("\n".join(montages[::2]) + "\n")
    (output / "test.txt").write_text("\n".join(test) + "\n")
    print(f"{output} lists {len(rows)} images of {data}.")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
