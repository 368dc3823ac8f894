"""What only watches a training never ends it: pictures, the page, trackers, progress lines, pushes on the way.

A failure of one of these is reported in a warning, once for each kind, and is noted in the record of the run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

from transformers.trainer_callback import TrainerCallback, TrainerState
from transformers.utils import logging

logger = logging.get_logger(__name__)


class Tolerance:
    """Lets a training continue when something that only watches it fails.

    Attributes:
        failures: What has failed → in which steps, and the kinds of error; without paths, for the record of the run.
    """

    def __init__(self) -> None:
        self._errors: dict[str, list[tuple[int, str]]] = {}

    @property
    def failures(self) -> dict[str, str]:
        """Description of each kind of failure."""
        described = {}
        for what, errors in self._errors.items():
            kinds = ", ".join(dict.fromkeys(kind for _, kind in errors))
            first, count = errors[0][0], len(errors)
            described[what] = f"{kinds} in step {first}" + (f" and {count - 1} times later" if count > 1 else "")
        return described

    @contextmanager
    def of(self, what: str, step: int) -> Iterator[None]:
        """Turn any error of the block into a warning.

        Args:
            what: What may fail, as a plural.
            step: Optimizer steps taken.
        """
        try:
            yield
        except Exception as error:  # of whatever library draws, writes or sends
            if what not in self._errors:
                logger.warning(
                    f"The {what} failed in step {step}: {type(error).__name__}: {error}. Training continues; later "
                    "failures of this kind are counted and listed in the record of the run."
                )
            self._errors.setdefault(what, []).append((step, type(error).__name__))

    def guard(self, callbacks: Sequence[TrainerCallback], what: Callable[[TrainerCallback], str | None]) -> None:
        """Let callbacks fail without consequences for the training.

        Args:
            callbacks: Those of a trainer.
            what: Gives what a callback is to be called in a warning; None for one whose errors count.
        """
        for callback in callbacks:
            called = what(callback)
            if called is None or "_tolerated" in vars(callback):
                continue
            vars(callback)["_tolerated"] = True
            for event in (name for name in dir(TrainerCallback) if name.startswith("on_")):
                vars(callback)[event] = self._tolerating(called, getattr(callback, event))

    def _tolerating(self, what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def tolerating(args: Any, state: TrainerState, control: Any, **kwargs: Any) -> Any:
            with self.of(what, state.global_step):
                return method(args, state, control, **kwargs)

        return tolerating
