"""The published cells, cut as a model wants them → blocks of cells."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from subcell_hf.cells.published.crops import PublishedCrops
from subcell_hf.images.fields_of_view import FieldError
from subcell_hf.inference.models.variants import Variant, choose_variant
from subcell_hf.inference.sources.blocks import CellBlock, Skipped


@dataclass(frozen=True)
class PublishedCells:
    """Published cells, one block per field of view.

    Attributes:
        crops: The cells.
        variants: Models to choose from, the largest first.
        blocks_per_part: Blocks in a part of the table, at most.
        blocks_per_read: Blocks that one task of a cluster reads.
    """

    crops: PublishedCrops
    variants: tuple[Variant, ...]
    blocks_per_part: int = 64
    blocks_per_read: int = 4

    def names(self) -> Sequence[str]:
        """Names of the fields of view, sorted."""
        return sorted(self.crops.cells.fields)

    def read(self, name: str) -> CellBlock:
        """Fetch and cut the cells of one field.

        Raises:
            UnreachableError: If the files cannot be reached: cells are not skipped for what is not their fault.
        """
        found = self.crops.read(name)
        skipped = tuple(Skipped(*cell) for cell in found.skipped)
        try:
            variant = choose_variant(self.variants, found.channels)
        except FieldError as error:
            return CellBlock(None, None, skipped=(*skipped, Skipped(name, str(error))))
        return CellBlock(found if found.cells else None, variant if found.cells else None, skipped=skipped)

    def fingerprint(self) -> str:
        """Changes with the published table, the choice of cells and the models."""
        facts = [self.crops.fingerprint(), *(asdict(variant) for variant in self.variants)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
