"""Train an ensemble of location classifiers on a table of frozen embeddings.

python recipes/train_localization.py --table embeddings.parquet --encoder subcell-rybg --output subcell-rybg-located
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from subcell_hf.errors import InputError
from subcell_hf.ontology import challenge_locations, reported_locations, training_locations
from subcell_hf.process import run_plainly
from subcell_hf.progress import hide_weight_bars
from subcell_hf.storage.model_folders import check_model, read_processor
from subcell_hf.storage.plain_files import read_yaml
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.training.localization.localization import LabelledEmbeddings, LocalizationSettings, train_ensemble
from subcell_hf.training.localization.localization_folder import location_targets, save_classifier, split_cells

CLASSES = {"reported": reported_locations, "training": training_locations, "challenge": challenge_locations}
CONFIG = Path(__file__).parent / "configs" / "localization.yaml"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", type=Path, default=CONFIG, help="YAML file with fields of the recipe")
    parser.add_argument("--table", type=Path, required=True, help="embedding table with a column `locations`")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the model that made the table")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; new or empty")
    parser.add_argument("--classes", choices=sorted(CLASSES), default="reported", help="which locations to predict")
    parser.add_argument("--split-by", choices=("gene", "antibody"), default="gene", help="where the table has no split")
    parser.add_argument("--split-seed", type=int, default=0, help="seed of that split")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="fields that win over the file")
    return parser.parse_args(arguments)


def read_settings(path: Path, changes: Sequence[str]) -> LocalizationSettings:
    """The recipe of a file, with changes."""
    if not path.is_file():
        raise InputError(f"{path} does not exist, expected a YAML file such as {CONFIG}.")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold `name: value` lines.")
    values |= {name: yaml.safe_load(value) for name, _, value in (change.partition("=") for change in changes)}
    try:
        return LocalizationSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise InputError(f"{path}: {error}.") from error


def split_table(table: EmbeddingTable, by: str, seed: int) -> np.ndarray:
    """Name of every cell's split."""
    if "split" in table.cells and table.cells["split"].astype(bool).any():
        return table.cells["split"].to_numpy(str)
    columns = [list(table.cells.get(name, [""] * len(table))) for name in ("antibody", "gene", "locations")]
    return split_cells(*columns, by=by, seed=seed)


def main(arguments: Sequence[str]) -> None:
    """Parse, train, write."""
    given = parse(arguments)
    hide_weight_bars()
    torch.set_float32_matmul_precision("high")  # TF32 where the device has it, as in the published training
    read_processor(given.encoder, check_model(given.encoder))  # before the training, not after it
    settings, table = read_settings(given.config, given.set), read_table(given.table)
    if "locations" not in table.cells:
        raise InputError(f"{given.table} has no column `locations`, expected names joined by ;.")
    labelled = np.array([bool(text.strip(" ;")) for text in table.cells["locations"]], dtype=bool)
    if not labelled.any():
        raise InputError(f"No cell of {given.table} has a location, expected names joined by ;.")
    if not labelled.all():
        print(f"{int((~labelled).sum())} of {len(table)} cells have no location and are left out.")
        table = table.select(labelled)
    classes = CLASSES[given.classes]()
    targets = location_targets(list(table.cells["locations"]), classes)
    splits = split_table(table, given.split_by, given.split_seed)
    parts = {
        name: LabelledEmbeddings(table.embeddings[splits == name], targets[splits == name]) for name in set(splits)
    }
    missing = [name for name in ("train", "validation") if name not in parts]
    if missing:
        raise InputError(f"{given.table} has no cell of the split {missing[0]}; it has {', '.join(sorted(parts))}.")
    unused = {name or "no split": len(part.embeddings) for name, part in parts.items()}
    unused = {name: count for name, count in unused.items() if name not in ("train", "validation")}
    if unused:
        print("Not used: " + ", ".join(f"{count} cells of {name}" for name, count in sorted(unused.items())) + ".")
    ensemble = train_ensemble(parts["train"], parts["validation"], settings, device=given.device)
    best = [history[epoch] for history, epoch in zip(ensemble.history, ensemble.best_epochs, strict=True)]
    log = {"seeds": ensemble.seeds, "best_epochs": ensemble.best_epochs, "history": ensemble.history}
    save_classifier(
        ensemble, given.encoder, given.output, classes, settings, {"training_log.json": json.dumps(log, indent=1)}
    )
    print(f"Wrote {given.output}: {len(best)} members, macro mAP {np.mean(best):.4f} on the validation cells.")


if __name__ == "__main__":
    run_plainly(lambda: main(sys.argv[1:]))
