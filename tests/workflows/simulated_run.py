"""Two simulated fields of view with masks, embedded by a tiny model."""

from dataclasses import dataclass
from pathlib import Path

from subcell_hf.inference.engine.embed_settings import EmbedSettings
from subcell_hf.parallel.processes import Processes
from subcell_hf.simulation.simulate import simulate_dataset
from subcell_hf.tables.files import EmbeddingTable, read_table
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.embed import embed_to_folder
from subcell_hf.workflows.embed_input import EmbedInput
from subcell_hf.workflows.partners.fields_of_run import iterate_fields_of_run
from tests.inference.embedding_runs import save_tiny_model


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Output of `subcell embed`.
        images: What was embedded.
        model: The model's folder.
        table: Its table.
        fields: Name → field of view, with its mask.
    """

    folder: Path
    images: Path
    model: Path
    table: EmbeddingTable
    fields: dict[str, FieldOfView]


def make_run(folder: Path) -> Run:
    """Simulate and embed."""
    simulate_dataset(2, 0, folder / "images", size_px=512, progress=False)
    save_tiny_model(folder / "model")
    given = EmbedInput(str(folder / "images"), str(folder / "model"))
    settings = EmbedSettings(precision="fp32", device="cpu", progress=False)
    embed_to_folder(given, folder / "run", settings, processes=Processes(), report=False)
    table = read_table(folder / "run")
    names = list(dict.fromkeys(table.cells["field_of_view"]))
    fields = {field.name: field for field in iterate_fields_of_run(folder / "run", names)}
    return Run(folder / "run", folder / "images", folder / "model", table, fields)
