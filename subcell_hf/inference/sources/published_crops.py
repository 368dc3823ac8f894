"""The published cells, cut as a model wants them → blocks of cells."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from subcell_hf.cells.published.crops import PublishedCrops
from subcell_hf.inference.models.variants import Variant
from subcell_hf.inference.sources.blocks import CellBlock, Choices, Skipped, share_crops


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
        return self.read_each(name, [self.variants])[0]

    def read_each(self, name: str, choices: Choices) -> list[CellBlock]:
        """Fetch and cut the cells of one field for each of several encoders; see `read`."""
        found = self.crops.read(name)
        lost = tuple(Skipped(*cell) for cell in found.skipped)
        blocks = [replace(block, skipped=(*lost, *block.skipped)) for block in share_crops(found, choices)]
        return [block if found.cells else replace(block, crops=None, variant=None) for block in blocks]

    def fingerprint(self, variants: Sequence[Variant] | None = None) -> str:
        """Changes with the published table, the choice of cells and the models."""
        facts = [self.crops.fingerprint(), *(asdict(variant) for variant in variants or self.variants)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
