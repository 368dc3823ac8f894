"""The command as a process: signals, standard streams, and what ends it in one sentence."""

import atexit
import gc
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from errno import EACCES, EEXIST, ENOSYS, ENOTDIR, EPERM, EPIPE, EROFS
from pathlib import Path
from typing import Any, TextIO

import typer

from subcell_hf.errors import KILLED_WORKER, InputError, InputWarning, KilledWorkerError, UnreachableError
from subcell_hf.extras import explain_missing

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

_FULL_COLLECTIONS = 200
"""Collections of younger objects after which Python looks for garbage among all objects; its own number is 10.

torch and transformers consist of a million objects that stay. Eight visits to all of them during the imports take 1 s
of processor time, and one at the end of the process 1.3 s (benchmarks/startup.py).
"""

_KEPT = "Files that are complete are kept; where the command resumes, the same one again skips what is done."
_SHARED_MEMORY = (
    "A worker process ran out of shared memory (/dev/shm). Give the container more of it, as with docker run "
    "--shm-size=8g, or give fewer workers."
)

# Python's semaphores fail without the name of a file.
_NO_SEMAPHORES = (
    " The system names no file. Worker processes need shared memory: let /dev/shm be a tmpfs that you may write to, as "
    "docker run has it, or leave --workers out."
)


class _Terminated(BaseException):
    """SIGTERM came: of Slurm, of a container, of `kill`."""


class PatientStream:
    """Standard output or error that may fail without ending the work: `| head` has read enough, a log's disk is full.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        """Write, until writing has failed once."""
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, likewise."""
        self._try(self.stream.flush)

    def _try(self, action: Callable[[], Any]) -> None:
        if self.failure is not None:
            return
        try:
            action()
        except OSError as error:
            self.failure = error
            # What is left in the stream's buffer would fail again when Python flushes it at its end.
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def ending_plainly() -> Iterator[None]:
    """Run a command; whatever can be expected to end it becomes one sentence and an exit code.

    Raises:
        typer.Exit: With 2 for bad input or a failed disk, 130 after Ctrl-C, 143 after SIGTERM.
    """
    with (
        _visiting_fewer_objects(),
        _patient_streams() as streams,
        _listening_for_sigterm(),
        _warning_plainly(),
        _showing_messages(),
    ):
        code = None
        try:
            yield
        except ImportError as error:  # a public name of a room has the missing library's for its cause
            if (message := explain_missing(error.name or getattr(error.__cause__, "name", None))) is None:
                raise
            code = _end(message)
        except EOFError as error:  # of which typer would make "Aborted." without a reason
            code = _end(f"A file is incomplete: {str(error) or 'it ends too early'}. Copy the input again.")
        except (InputError, UnreachableError) as error:
            code = _end(str(error))
        except OSError as error:
            code = _end(_explain(error))
        except MemoryError as error:
            reason = str(error) or "no size was given"
            code = _end(f"Memory ran out ({reason}). Give fewer --workers or a smaller input. {_KEPT}")
        except (BrokenProcessPool, KilledWorkerError) as error:
            # The pool's own message speaks of futures.
            reason = str(error) if isinstance(error, KilledWorkerError) else KILLED_WORKER
            code = _end(f"{reason} {_KEPT}")
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            # torch has no type of its own for it.
            code = _end(f"{_SHARED_MEMORY if 'shared memory' in str(error) else KILLED_WORKER} {_KEPT}")
        except KeyboardInterrupt:
            code = _end("interrupted.", INTERRUPTED)
        except _Terminated:
            code = _end("terminated by SIGTERM.", TERMINATED)
        if code is None and (failed := [s.failure for s in streams if s.failure and s.failure.errno != EPIPE]):
            code = _end(f"What was said could not be written: {failed[0].strerror}. The command itself has finished.")
        if code is not None:
            raise typer.Exit(code)


@contextmanager
def _visiting_fewer_objects() -> Iterator[None]:
    """Let the garbage collector visit all objects less often, and not when the process ends, whose memory is freed."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, max(old, _FULL_COLLECTIONS))
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)


@contextmanager
def _warning_plainly() -> Iterator[None]:
    """Show an `InputWarning` as a note, once, without the line of code that gave it."""
    with warnings.catch_warnings():
        show, said = warnings.showwarning, set()

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, InputWarning):
                show(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                typer.echo(f"Note: {message}", err=True)

        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = note
        yield


_results_alone = ContextVar("results_alone", default=False)


@contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show notes on standard error while the block runs, for commands whose standard output another program reads."""
    token = _results_alone.set(True)
    try:
        yield
    finally:
        _results_alone.reset(token)


class _Messages(logging.Handler):
    """Shows what workflows log: notes on standard output, warnings and errors on standard error; the message only."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write to the streams as they are now, which `_patient_streams` has replaced."""
        stream = sys.stderr if record.levelno >= logging.WARNING or _results_alone.get() else sys.stdout
        stream.write(f"{self.format(record)}\n")
        stream.flush()


@contextmanager
def _showing_messages() -> Iterator[None]:
    """Show notes and warnings of the package; handlers of the surrounding program receive them as before."""
    logger = logging.getLogger("subcell_hf")
    handler, level = _Messages(logging.INFO), logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def run_plainly(main: Callable[[], None]) -> None:
    """Run a script's main function as a command and exit; see `ending_plainly`."""
    code = 0
    try:
        with ending_plainly():
            main()
    except typer.Exit as end:
        code = end.exit_code
    sys.exit(code)


def _explain(error: OSError) -> str:
    """The error without Python's own notation, with a remedy where permissions are the reason."""
    if error.strerror is None:
        return str(error)
    if error.filename is None:
        remedy = _NO_SEMAPHORES if error.errno in (EACCES, EPERM, EROFS, ENOSYS) else ""
        return f"{error.strerror.rstrip('.')}.{remedy}"
    # Of a rename, which gives a file its name when it is complete, that name says more.
    name = error.filename if error.filename2 is None else error.filename2
    remedy = " Check its permissions, or choose another place." if error.errno in (EACCES, EPERM, EROFS) else ""
    if error.errno in (EEXIST, ENOTDIR):
        remedy = " It is a file where a folder is expected: choose another place."
    if variable := _cache_variable(str(name)):
        remedy = f" {variable} names that place: let it name a folder that can be written, or unset it."
    return f"{name}: {error.strerror}.{remedy}"


def _cache_variable(path: str) -> str | None:
    """The variable that makes libraries use a path, as some do while they are imported."""
    caches = {value: name for name, value in os.environ.items() if "CACHE" in name or name.endswith("_HOME")}
    return next((caches[place] for place in map(str, (Path(path), *Path(path).parents)) if place in caches), None)


def _end(message: str, code: int = BAD_INPUT) -> int:
    if code == BAD_INPUT:
        typer.secho(f"Error: {message}", fg="red", err=True)
    else:
        typer.echo(f"subcell was {message} {_KEPT}", err=True)
    return code


@contextmanager
def _patient_streams() -> Iterator[tuple[PatientStream, ...]]:
    """Standard streams that end no work, whatever their encoding lacks or their reader does."""
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w") as nowhere:
        # A closed stream is None, to which libraries such as tqdm cannot write.
        streams = tuple(PatientStream(nowhere if stream is None else stream) for stream in before)
        for stream in streams:
            if isinstance(stream.stream, io.TextIOWrapper):
                stream.stream.reconfigure(errors="backslashreplace")
        sys.stdout, sys.stderr = streams
        try:
            yield streams
        finally:
            for stream in streams:
                stream.flush()
            sys.stdout, sys.stderr = before


def _fill_closed_descriptors() -> None:
    """Else the first file that is opened becomes standard output or error, and libraries print into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


@contextmanager
def _listening_for_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does, so that locks and temporary files are removed."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one does not break the tidying up
        raise _Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
