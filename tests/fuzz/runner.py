"""Cases in worker processes that can be killed: how long each takes, how much memory, and how it ends."""

import faulthandler
import multiprocessing
import os
import platform
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz.mutations import SECRET, mutate_folder

MEMORY_LIMIT_BYTES = 1536 * 2**20
"""What a case may take beyond what its process had: larger requests end in a MemoryError, which is a fault."""

SECONDS_LIMIT = 60.0
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "socket.connect", "os.fork")


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: For the table and for repeating a case.
        write: Variant → writes a sound input into an empty folder.
        read: Reads the folder as the package does.
        share: Cases relative to other kinds.
        spared: Names of files that are never damaged.
        refusals: Exceptions that the kind's readers document, beside `InputError`.
    """

    name: str
    write: Mapping[str, Callable[[Path], object]]
    read: Callable[[Path], object]
    share: int = 1
    spared: frozenset[str] = frozenset()
    refusals: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Case:
    """A damaged input, by numbers that make it again."""

    kind: str
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.seed}-{self.number}"


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `accepted`, `refused` or `fault`."""

    case: Case
    end: str
    damage: str = ""
    message: str = ""
    seconds: float = 0.0
    peak_bytes: int = 0


@dataclass
class _Worker:
    process: Any
    connection: Connection
    case: Case | None = None
    since: float = field(default_factory=time.monotonic)


def write_sound(kinds: Sequence[Kind], work: Path) -> None:
    """Write the sound inputs and read them, in a process of their own so that this one starts no threads.

    Raises:
        RuntimeError: If a sound input is not accepted; then its cases would show nothing.
    """
    process = multiprocessing.get_context("fork").Process(target=_write_sound, args=(kinds, work))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError("A sound input was not accepted; see the traceback above.")


def _write_sound(kinds: Sequence[Kind], work: Path) -> None:
    (work / "cases").mkdir(parents=True)
    for kind in kinds:
        for variant, write in kind.write.items():
            folder = work / "sound" / kind.name / variant
            folder.mkdir(parents=True)
            write(folder)
            shutil.copytree(folder, work / "cases" / "sound")
            kind.read(work / "cases" / "sound")
            shutil.rmtree(work / "cases" / "sound")
    for ending in ("", ".safetensors", ".tif"):
        (work / "cases" / f"{SECRET}{ending}").write_bytes(b"secret")


def run_cases(
    cases: Sequence[Case], kinds: Sequence[Kind], work: Path, faults: Path, workers: int
) -> Iterator[Outcome]:
    """Run cases; those that fail are kept under `faults`.

    Args:
        cases: What to run.
        kinds: Their kinds, whose sound inputs `write_sound` has written.
        work: Folder for them.
        faults: Folder for the inputs of cases that fail.
        workers: Processes.
    """
    by_name = {kind.name: kind for kind in kinds}
    waiting = list(reversed(cases))
    pool = [_start(by_name, work, faults) for _ in range(min(workers, len(cases)))]
    try:
        while waiting or any(worker.case for worker in pool):
            for worker in pool:
                if worker.case is None and waiting:
                    worker.case, worker.since = waiting.pop(), time.monotonic()
                    worker.connection.send(worker.case)
            busy = [worker for worker in pool if worker.case]
            wait([handle for worker in busy for handle in (worker.connection, worker.process.sentinel)], timeout=0.5)
            for position, worker in enumerate(pool):
                if worker.case is None:
                    continue
                outcome, alive = _collect(worker, faults, work)
                if outcome is not None:
                    worker.case = None
                    yield outcome
                if not alive:
                    pool[position] = _start(by_name, work, faults)
    finally:
        for worker in pool:
            worker.process.kill()
            worker.process.join()


def _start(kinds: Mapping[str, Kind], work: Path, faults: Path) -> _Worker:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, kinds, work, faults), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _collect(worker: _Worker, faults: Path, work: Path) -> tuple[Outcome | None, bool]:
    """What a worker has to say of its case, and whether it lives on."""
    assert worker.case is not None
    seconds = time.monotonic() - worker.since
    if worker.connection.poll():
        try:
            outcome: Outcome = worker.connection.recv()
            return outcome, True
        except EOFError:
            pass
    elif worker.process.is_alive() and seconds < SECONDS_LIMIT:
        return None, True
    hung, log = worker.process.is_alive(), work / f"log-{worker.process.pid}"
    if hung:
        os.kill(worker.process.pid, signal.SIGUSR1)  # it writes into its log where it is
        time.sleep(0.3)
    worker.process.kill()
    worker.process.join()
    message = f"took longer than {SECONDS_LIMIT:g} s" if hung else f"ended its process, {worker.process.exitcode}"
    _keep(worker.case, work, faults, f"{message}\n\n{log.read_text(errors='replace')[-5000:] if log.is_file() else ''}")
    return Outcome(worker.case, "fault", "", message, seconds), False


def _keep(case: Case, work: Path, faults: Path, text: str) -> None:
    kept = faults / str(case)
    shutil.rmtree(kept, ignore_errors=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if (work / "cases" / str(case)).is_dir():
        shutil.copytree(work / "cases" / str(case), kept / "input", symlinks=True)
    kept.mkdir(exist_ok=True)
    (kept / "fault.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


# ---- In the worker ----


class _Watch:
    """Notes commands, connections, and files opened outside of where a case may look."""

    def __init__(self, work: Path) -> None:
        self.work, self.seen, self.active = str(work), list[str](), False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event in _FORBIDDEN:
            self.seen.append(f"{event} {arguments[:2]!r}"[:300])
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, mode = os.fsdecode(arguments[0]), str(arguments[1] or "r")
            writes = any(letter in mode for letter in "wax+")
            if SECRET in path or (writes and path.startswith("/") and not path.startswith((self.work, "/dev/"))):
                self.seen.append(f"open {path!r} {mode}")


def _work(connection: Connection, kinds: Mapping[str, Kind], work: Path, faults: Path) -> None:
    with (work / f"log-{os.getpid()}").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    faulthandler.register(signal.SIGUSR1)
    platform.processor()  # asks another program once and keeps the answer
    watch = _Watch(work)
    while True:
        case: Case = connection.recv()
        connection.send(_run(case, kinds[case.kind], work, faults, watch))


def _run(case: Case, kind: Kind, work: Path, faults: Path, watch: _Watch) -> Outcome:
    from subcell_hf.errors import InputError

    rng = random.Random(str(case))
    variant = rng.choice(sorted(kind.write))
    folder = work / "cases" / str(case)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "sound" / kind.name / variant, folder)
    marker = Path(os.environ["SUBCELL_FUZZ_CANARY"])
    damage = f"{variant}: {mutate_folder(folder, kind.spared, rng)}"
    _reset_peak()
    if sys.platform == "linux":
        # What earlier cases have left in the process is not this one's.
        resource.setrlimit(resource.RLIMIT_DATA, (_memory("VmData") + MEMORY_LIMIT_BYTES, resource.RLIM_INFINITY))
    before, start, text = _memory("VmRSS"), time.monotonic(), ""
    watch.seen.clear()
    watch.active = True
    try:
        kind.read(folder)
        end, message = "accepted", ""
    except (InputError, *kind.refusals) as error:
        end, message = ("refused", str(error)) if str(error).strip() else ("fault", f"{error!r} says nothing")
    except BaseException as error:  # whatever it is, it is what this run looks for
        end, message, text = "fault", f"{type(error).__name__}: {error}"[:300], traceback.format_exc()
    watch.active = False
    seconds, peak = time.monotonic() - start, max(0, _memory("VmHWM") - before)
    if watch.seen or marker.exists():
        end, message = "fault", f"left its folder or ran code: {watch.seen[:3]}"
        shutil.rmtree(marker, ignore_errors=True)
    if peak > MEMORY_LIMIT_BYTES:
        end, message = "fault", f"took {peak / 2**20:.0f} MiB"
    if end == "fault":
        _keep(case, work, faults, f"{case}\n{damage}\n{message}\n\n{text}")
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(case, end, damage, message, seconds, peak)


def _memory(name: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith(f"{name}:")), "x: 0 kB")
    return int(line.split()[1]) * 1024


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return
