"""Where the cells of an embedding table come from, as the run that embedded them recorded it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcell_hf.errors import InputError
from subcell_hf.tables.run_record import RUN_FILE, orientations_of, read_run
from subcell_hf.workflows.embed_input import EmbedInput, read_embed_input


@dataclass(frozen=True)
class TableOrigin:
    """Images of the cells of a table, and the models that embedded them.

    Attributes:
        identity: Identifies the state of the images that the table was computed from.
        source: Path or URL of the images, crops or shards.
        input: Input of `subcell embed`, if known.
        models: Facts about the models that embedded the cells; empty for a table that is not SubCell's.
        precision: Precision of the embedding.
        orientations: Number of orientations of each cell over which the embedding is averaged.
    """

    identity: str
    source: str
    input: EmbedInput | None
    models: tuple[Mapping[str, Any], ...]
    precision: str = "auto"
    orientations: int = 1

    @classmethod
    def of_table(cls, path: Path, provenance: Mapping[str, Any], images: str | None) -> "TableOrigin":
        """Find the origin of a table.

        Args:
            path: Table, or the folder of its run.
            provenance: Provenance in the table.
            images: Path or URL of the images; None: as the run recorded.

        Raises:
            InputError: If no images are recorded, or they do not exist.
        """
        run = read_run(path)
        given = read_embed_input(run, str(path / RUN_FILE))
        source = images or (given.source if given else None)
        if source is None:
            raise InputError(f"{path} does not record the images of its cells")
        source = given.find(source) if given else source
        if "://" not in source and not Path(source).exists():
            raise InputError(f"{source}, the source of its cells, does not exist")
        facts = run or provenance
        identity = run.get("fingerprint", source)
        models, precision = tuple(facts.get("models", ())), facts.get("precision", "auto")
        return cls(identity, source, given, models, precision, orientations_of(facts))
