"""How long a run has trained, over all the stretches that it was broken into."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from subcell_hf.training.runs.training_record import TRAINING_RECORD_FILE


@dataclass
class TrainingClock:
    """Adds the time of a training session to the times of earlier sessions in the record of its checkpoint.

    The time of a killed session after its last checkpoint is unknown and not counted.

    Attributes:
        earlier: `runtime_s` and `device_s` of the earlier sessions; None if their checkpoint does not record them.
        runtime_s: Seconds of this session, once it has stopped.
    """

    earlier: Mapping[str, float] | None = None
    runtime_s: float | None = None
    _started_s: float | None = None

    def start(self, checkpoint: Path | None) -> None:
        """Begin a session: the first of a new run, or one that resumes from a checkpoint."""
        self.earlier = {"runtime_s": 0.0, "device_s": 0.0} if checkpoint is None else _read_times(checkpoint)
        self.runtime_s, self._started_s = None, time.monotonic()

    def stop(self) -> None:
        """End the stretch; what comes after, such as writing the final model, is no training."""
        if self._started_s is not None:
            self.runtime_s, self._started_s = time.monotonic() - self._started_s, None

    @contextmanager
    def running(self, checkpoint: Path | None) -> Iterator[None]:
        """Time a stretch of training, however it ends; argument as for `start`."""
        self.start(checkpoint)
        try:
            yield
        finally:
            self.stop()

    def read(self, processes: int) -> dict[str, float]:
        """Time of all stretches up to now.

        Args:
            processes: Of this stretch.

        Returns:
            `runtime_s`, seconds of training, and `device_s`, the same with each stretch times its processes; nothing
            before training, or where an earlier stretch is not known.
        """
        own = self.runtime_s if self._started_s is None else time.monotonic() - self._started_s
        if own is None or self.earlier is None:
            return {}
        earlier = self.earlier
        return {"runtime_s": earlier["runtime_s"] + own, "device_s": earlier["device_s"] + own * processes}


def _read_times(checkpoint: Path) -> Mapping[str, float] | None:
    """Times in a checkpoint's record; None without a record or without times."""
    path = checkpoint / TRAINING_RECORD_FILE
    hardware: Mapping[str, Any] = json.loads(path.read_bytes()).get("hardware", {}) if path.is_file() else {}
    if not {"runtime_s", "device_s"} <= hardware.keys():
        return None
    return {name: float(hardware[name]) for name in ("runtime_s", "device_s")}
