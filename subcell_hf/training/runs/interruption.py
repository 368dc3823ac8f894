"""Ends a training cleanly when its process is asked to end."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState


class Interruption(TrainerCallback):
    """After SIGTERM to any process, all of them save a checkpoint and stop when the current step is done.

    Args:
        agree: Takes whether this process was asked and returns whether any was; called by every process after every
            step.

    Attributes:
        asked: Whether this process was sent SIGTERM, or has heard that another one was.
    """

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        self.asked = False
        self._agree = agree

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stop all processes after the same step."""
        if self._agree(self.asked):
            self.asked = True
            control.should_save = control.should_training_stop = True
        return control

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of SIGTERM instead of dying from it; outside the main thread, which alone can, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.asked = False

        def remember(*_: Any) -> None:
            self.asked = True

        before = signal.signal(signal.SIGTERM, remember)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
