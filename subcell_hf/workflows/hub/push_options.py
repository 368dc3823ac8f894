"""How files are pushed to the Hub."""

from dataclasses import dataclass
from typing import Annotated

from subcell_hf.settings import Setting


@dataclass(frozen=True)
class PushOptions:
    """How files are pushed.

    Attributes:
        private: Create what does not exist yet as private.
        revision: Branch to push to.
        create_revision: Create the branch if it does not exist.
        message: Commit message.
        dry_run: List what would be uploaded; the Hub is not changed.
    """

    private: bool = False
    revision: str = "main"
    create_revision: bool = False
    message: str = "Publish with subcell_hf"
    dry_run: Annotated[bool, Setting("--dry-run", "--dry_run")] = False
