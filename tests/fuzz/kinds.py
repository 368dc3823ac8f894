"""Every kind of file that the package reads: how a sound one is written, and what reads it."""

from tests.fuzz.image_kinds import IMAGE_KINDS
from tests.fuzz.model_kinds import MODEL_KINDS
from tests.fuzz.runner import Kind
from tests.fuzz.table_kinds import TABLE_KINDS

KINDS: list[Kind] = [*IMAGE_KINDS, *TABLE_KINDS, *MODEL_KINDS]
