"""Which of how many processes of one run this is, as its launcher says."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from subcell_hf.errors import InputError


class _Variables(NamedTuple):
    """How a launcher passes its numbers on."""

    rank: str
    world_size: str
    local_rank: str
    per_shell: bool = False
    """Whether interactive shells set these too; such a shell is one process, independent of its number of tasks."""


ALONE = "To embed everything with one process, put WORLD_SIZE=1 before the command."
"""Advice for finishing a run of several processes with one."""

_LAUNCHERS = (
    _Variables("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate launch
    # `mpirun` may start its own daemons with srun, so Slurm's numbers come after its own.
    _Variables("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    # A batch script without srun has a SLURM_PROCID and SLURM_NTASKS, too, but is no step of several tasks.
    _Variables("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", per_shell=True),
    _Variables("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", per_shell=True),
)


def is_launched() -> bool:
    """Whether `torchrun` or `accelerate launch` runs this process: they take every exit code but 0 for a crash."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this is.

    Attributes:
        rank: Number of this process.
        world_size: Processes in all.
        local_rank: Number of this process on its machine.
        said_by: The variables that say so, in words; empty where none does.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    said_by: str = field(default="", compare=False)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> "Processes":
        """As the launcher says: `torchrun`, `accelerate launch`, `mpirun` or `srun`; alone where none does.

        Args:
            environment: Variables; None for those of this process.

        Raises:
            InputError: If the numbers are impossible.
        """
        given = os.environ if environment is None else environment
        for names in _LAUNCHERS:
            if names.world_size in given:
                return cls() if names.per_shell and _is_shell(given, names) else cls._read(given, names)
        return cls()

    @classmethod
    def of_torch(cls, environment: Mapping[str, str] | None = None) -> "Processes":
        """Read from `torchrun` or `accelerate launch` only, as `torch.distributed` does; see `of_environment`.

        Raises:
            InputError: If the numbers are impossible.
        """
        given = os.environ if environment is None else environment
        names = _LAUNCHERS[0]
        return cls._read(given, names) if names.world_size in given else cls()

    def describe(self) -> str:
        """What is to be known before the work begins, where this is not the only process."""
        return (
            f"This is process {self.rank + 1} of {self.world_size}, as {self.said_by} say: it embeds its share of the "
            f"input only. {ALONE}"
        )

    @classmethod
    def _read(cls, given: Mapping[str, str], names: _Variables) -> "Processes":
        world_size = _number(given, names.world_size, 1)
        if names.rank not in given:
            if world_size == 1:
                return cls()
            raise InputError(
                f"{names.world_size} is {world_size}, but {names.rank} is not set, so it is unknown which of the "
                f"{world_size} processes this is. Start it with a launcher, or unset {names.world_size} to work alone."
            )
        rank = _number(given, names.rank, 0)
        if rank >= world_size:
            raise InputError(
                f"{names.rank} is {rank} and {names.world_size} is {world_size}: expected a rank from 0 to "
                f"{world_size - 1}. Start with a launcher that sets both, or unset both to work alone."
            )
        local_rank = _number(given, names.local_rank, 0) if names.local_rank in given else 0
        return cls(rank, world_size, local_rank, f"{names.rank}={rank} and {names.world_size}={world_size}")


def _is_shell(given: Mapping[str, str], names: _Variables) -> bool:
    """Whether someone types: `srun --pty` gives its first task the terminal, and the others none."""
    return given.get(names.rank) == "0" and sys.stdin is not None and sys.stdin.isatty()


def _number(given: Mapping[str, str], name: str, least: int) -> int:
    text = given[name].strip()
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise InputError(
            f"{name} is {given[name]!r}, expected a whole number of at least {least}, as launchers set it. Correct it, "
            f"or unset {name} to work alone."
        )
    return int(text)
