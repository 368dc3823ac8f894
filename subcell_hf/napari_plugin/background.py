"""Work that takes long in a thread, with progress, cancelling, and errors as sentences."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from subcell_hf.errors import InputError

_Result = TypeVar("_Result")

SHOWN_ERRORS = (InputError, OSError, MemoryError)
"""Errors whose message is written for the user."""

_logger = logging.getLogger(__name__)


class CancelledError(Exception):
    """The user has cancelled the work."""


class Job:
    """One piece of work at a time, in a thread.

    Args:
        show: Is given each message for the user.

    Attributes:
        running: Whether there is work.
    """

    def __init__(self, show: Callable[[str], object]) -> None:
        self.running = False
        self._show = show
        self._cancelled = threading.Event()

    def start(
        self,
        work: Callable[[Callable[[int], None]], _Result],
        finish: Callable[[_Result], object],
        *,
        progress: Callable[[int], object] = lambda _: None,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        """Start work, unless there is some already.

        Args:
            work: Called in a thread, with a function to be called with the number of steps that are done; that raises
                `CancelledError` after `cancel`.
            finish: Called in the thread of the window with the result.
            progress: Called there with the number of steps.
            end: Called there at the end, whatever came of the work.

        Raises:
            InputError: If there is work already.
        """
        from superqt.utils import ensure_main_thread

        if self.running:
            raise InputError("The previous work is not finished. Wait for it, or cancel it.")
        self.running = True
        self._cancelled.clear()
        show_progress: Any = ensure_main_thread(lambda done: progress(done))

        @ensure_main_thread
        def conclude(result: Any, error: Exception | None) -> None:
            self.running = False
            with shown_errors(self._show):
                end()
                if error is not None:
                    raise error
                finish(result)

        def watch(done: int) -> None:
            if self._cancelled.is_set():
                raise CancelledError
            show_progress(done)

        def run() -> None:
            try:
                result = work(watch)
            except Exception as error:  # shown in the window
                conclude(None, error)
            else:
                conclude(result, None)

        threading.Thread(target=run, name="subcell", daemon=True).start()

    def cancel(self) -> None:
        """Stop the work when it next reports its progress."""
        self._cancelled.set()


@contextmanager
def shown_errors(show: Callable[[str], object]) -> Iterator[None]:
    """Show what goes wrong as a sentence instead of a traceback.

    Args:
        show: Is given the message.
    """
    try:
        yield
    except CancelledError:
        show("Cancelled.")
    except SHOWN_ERRORS as error:
        show(str(error) or type(error).__name__)
        notify(str(error) or type(error).__name__)
    except Exception as error:  # a fault: the window must not close, and the log says where it was
        _logger.exception("The plugin failed.")
        show(f"This failed unexpectedly ({type(error).__name__}: {error}). The terminal shows where.")
        notify(f"SubCell failed: {error}")


def notify(message: str) -> None:
    """Show an error in a corner of the viewer.

    Args:
        message: The message.
    """
    from napari.utils.notifications import show_error

    show_error(message)


@contextmanager
def warnings_collected() -> Iterator[list[str]]:
    """Collect what workflows log as warnings; yields the list that they are added to."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("subcell_hf")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
