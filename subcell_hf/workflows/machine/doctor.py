"""Whether this machine can run the package, how fast, and what slows it down; what `subcell doctor` runs."""

import os
import platform
import shutil
import socket
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from subcell_hf import __version__
from subcell_hf.errors import counted
from subcell_hf.extras import EXTRAS
from subcell_hf.inference.models.layer_times import LayerShape, time_layer
from subcell_hf.inference.models.machine import fast_instructions, processor_name
from subcell_hf.parallel.cores import usable_cores
from subcell_hf.storage.folder_lock import is_writable

GOOD, ATTENTION, IMPOSSIBLE = "good", "attention", "impossible"

_SIGNS = {GOOD: "ok", ATTENTION: "!", IMPOSSIBLE: "x"}
_LEAST_FREE_GB = 5
_TIMEOUT_S = 2.0
_BUSY_SHARE = 0.3
_COLUMNS = 80


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        text: What was found, as half a sentence.
        state: `"good"`, `"attention"` or `"impossible"`.
        remedy: What to do; empty where nothing needs to be done.
    """

    name: str
    text: str
    state: str = GOOD
    remedy: str = ""


@dataclass(frozen=True)
class Checkup:
    """What was found on a machine.

    Attributes:
        findings: One per subject.
        figures: Numbers of them, by name: `cores`, `threads`, `load`, `layer_ms` by precision, `precision` that
            `--precision auto` takes, `int8_gain` over fp32 of a matrix product, `cells_per_s`, `free_gb`.
    """

    findings: tuple[Finding, ...]
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def possible(self) -> bool:
        """Whether the package can work here."""
        return all(finding.state != IMPOSSIBLE for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The checkup as plain data."""
        checks = [asdict(finding) for finding in self.findings]
        return {"possible": self.possible, "checks": checks, "figures": self.figures}


def check_machine(*, device: str = "auto") -> Checkup:
    """Look at everything that decides whether and how fast the package works here; takes a few seconds.

    Speed is measured with a layer of the published ViT-B at 448 px and kept for `subcell embed`.

    Args:
        device: Where to measure: `"auto"`, or as torch names it.

    Returns:
        What was found.

    Raises:
        InputError: If torch does not have the device.
    """
    from subcell_hf.inference.models.loading import choose_device

    figures: dict[str, Any] = {}
    place = choose_device(device)
    looks: tuple[Callable[[], Finding], ...] = (
        lambda: Finding("subcell_hf", f"{__version__}, Python {platform.python_version()}, {platform.platform()}"),
        _libraries,
        _extras,
        lambda: _accelerator(place),
        lambda: _threads(figures),
        lambda: _load(figures),
        lambda: _speed(place, figures),
        lambda: _int8(figures),
        lambda: _disk(figures),
        _cache,
        _network,
    )
    return Checkup(tuple(look() for look in looks), figures)


def describe_checkup(checkup: Checkup) -> str:
    """A checkup as text of 80 columns: a line or two per finding, and its remedy.

    Args:
        checkup: What was found.
    """
    lines = []
    width = max(len(finding.name) for finding in checkup.findings)
    for found in checkup.findings:
        begin = f"{_SIGNS[found.state]:>2}  {found.name:<{width}}  "
        indent = " " * len(begin)
        lines += textwrap.wrap(found.text, _COLUMNS, initial_indent=begin, subsequent_indent=indent)
        if found.remedy:
            lines += textwrap.wrap(
                found.remedy,
                _COLUMNS,
                initial_indent=f"{indent}→ ",
                subsequent_indent=f"{indent}  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def _libraries() -> Finding:
    wrong, present = [], []
    for line in distribution("subcell-hf").requires or ():
        needed = Requirement(line)
        if needed.marker is not None:  # of an extra
            continue
        found = _version(needed.name)
        if found is None or not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"'{needed.name}{needed.specifier}'")
        present.append(f"{needed.name} {found or 'missing'}")
    remedy = f"pip install {' '.join(wrong)}" if wrong else ""
    return Finding("libraries", ", ".join(present), IMPOSSIBLE if wrong else GOOD, remedy)


def _extras() -> Finding:
    named = {line: Requirement(line) for line in distribution("subcell-hf").requires or ()}
    state: dict[str, bool] = {}
    for extra in EXTRAS:
        own = [need for need in named.values() if need.marker is not None and need.marker.evaluate({"extra": extra})]
        fits = [_version(need.name) or "" for need in own]
        if own:
            state[extra] = all(
                found and need.specifier.contains(found, prereleases=True)
                for need, found in zip(own, fits, strict=True)
            )
    missing = [extra for extra, complete in state.items() if not complete]
    text = ", ".join(extra for extra, complete in state.items() if complete) or "none"
    if not missing:
        return Finding("extras", f"{text} are installed")
    remedy = f"what needs them asks for it: pip install 'subcell-hf[{','.join(missing)}]'"
    incomplete = f"{text} installed; missing or too old: {', '.join(missing)}"
    return Finding("extras", incomplete, ATTENTION if "data" in missing else GOOD, remedy)


def _accelerator(device: torch.device) -> Finding:
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 1e9
        return Finding("accelerator", f"{torch.cuda.get_device_name(device)}, {memory:.0f} GB")
    if Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        remedy = "Install a build of torch for CUDA: https://pytorch.org/get-started/locally"
        return Finding("accelerator", f"an NVIDIA driver, but torch {torch.__version__} has no GPU", ATTENTION, remedy)
    return Finding("accelerator", "none; models run on the CPU")


def _threads(figures: dict[str, Any]) -> Finding:
    cores, threads = usable_cores(), torch.get_num_threads()
    figures |= {"processor": processor_name(), "cores": cores, "threads": threads}
    settings = ", ".join(
        f"{name} {os.environ.get(name, 'not set')}" for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    )
    instructions = " ".join(fast_instructions()) or platform.machine()
    machine = f" of {os.cpu_count()}" if os.cpu_count() != cores else ""
    text = f"{processor_name()} ({instructions}); {cores} cores{machine} usable, {threads} threads in torch, {settings}"
    if threads > cores:
        return Finding("processor", text, ATTENTION, f"More threads than cores: set OMP_NUM_THREADS={cores}.")
    if threads * 2 <= cores and "OMP_NUM_THREADS" in os.environ:
        remedy = f"One process uses few of the cores: unset OMP_NUM_THREADS, or set it to {cores}."
        return Finding("processor", text, ATTENTION, remedy)
    return Finding("processor", text)


def _load(figures: dict[str, Any]) -> Finding:
    load, cores = os.getloadavg()[0], figures["cores"]
    figures["load"] = round(load, 2)
    text = f"{load:.1f} processes at work in the last minute, on {os.cpu_count()} cores"
    if load <= _BUSY_SHARE * (os.cpu_count() or 1):
        return Finding("load", text)
    remedy = f"Other programs use the cores; what is measured below is slower than on a quiet machine ({cores} cores)."
    return Finding("load", text, ATTENTION, remedy)


def _speed(device: torch.device, figures: dict[str, Any]) -> Finding:
    times = time_layer(LayerShape(), device, again=True)
    precision = times.fastest
    rate = times.cells_per_s(precision) or 0.0
    figures |= {
        "precision": precision,
        "layer_ms": {name: round(1e3 * seconds / times.images, 3) for name, seconds in times.seconds.items()},
        "cells_per_s": float(f"{rate:.3g}"),
        "batch_size": times.batch_size if device.type == "cpu" else None,
        "batch_ms_per_image": {size: round(1e3 * taken / size, 3) for size, taken in sorted(times.batches.items())},
    }
    text = f"about {rate:.3g} cells/s with ViT-B at 448 px in {precision}, which auto takes; {times.explain()}"
    if device.type == "cpu":
        text += f"; {counted(times.batch_size, 'image')} per batch"
    return Finding("speed", text)


def _int8(figures: dict[str, Any]) -> Finding:
    """Products of whole numbers against those of fp32, in the shape of a feed-forward layer."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randint(-127, 127, (785, 768), generator=generator).to(torch.int8)
    right = torch.randint(-127, 127, (768, 3072), generator=generator).to(torch.int8)
    exact = left.float(), right.float()
    try:
        whole = min(_time(lambda: torch._int_mm(left, right)) for _ in range(4))
    except RuntimeError:
        return Finding("int8", "torch has no products in int8 here")
    gain = min(_time(lambda: exact[0] @ exact[1]) for _ in range(4)) / whole
    figures["int8_gain"] = round(gain, 2)
    return Finding("int8", f"matrix products take 1/{gain:.1f} of the time of fp32" if gain > 1 else "not faster")


def _time(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _disk(figures: dict[str, Any]) -> Finding:
    here = Path.cwd()
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Finding("disk", "no temporary folder can be written", IMPOSSIBLE, "Let TMPDIR name one.")
    free = {str(place): shutil.disk_usage(place).free / 1e9 for place in dict.fromkeys((here, temporary))}
    figures["free_gb"] = {name: round(gigabytes, 1) for name, gigabytes in free.items()}
    text = ", ".join(f"{gigabytes:.0f} GB free in {name}" for name, gigabytes in free.items())
    if not is_writable(here):
        return Finding("disk", f"{text}; {here} cannot be written", ATTENTION, "Name another folder with --output.")
    if min(free.values()) < _LEAST_FREE_GB:
        remedy = "Free some space, name another --output, or let TMPDIR name another folder."
        return Finding("disk", text, ATTENTION, remedy)
    return Finding("disk", text)


def _cache() -> Finding:
    folder = Path(constants.HF_HOME)
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free / 1e9
    text = f"{folder}, {free:.0f} GB free"
    if not is_writable(folder):
        remedy = "Let HF_HOME name a folder that can be written, to keep models and measurements."
        return Finding("cache", f"{text}; cannot be written", ATTENTION, remedy)
    if free < _LEAST_FREE_GB:
        return Finding("cache", text, ATTENTION, "Free some space, or let HF_HOME name a folder on another disk.")
    return Finding("cache", text)


def _network() -> Finding:
    if constants.HF_HUB_OFFLINE:
        remedy = "Unset HF_HUB_OFFLINE to download models."
        return Finding("network", "not used, as HF_HUB_OFFLINE says", GOOD, remedy)
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    problems = ["no answer"]

    def reach() -> None:
        try:
            socket.create_connection((address.hostname or "", port), _TIMEOUT_S).close()
            problems.clear()
        except OSError as error:
            problems[:] = [str(error)]

    # The time limit of a connection leaves out the search for its address.
    attempt = threading.Thread(target=reach, daemon=True)
    attempt.start()
    attempt.join(_TIMEOUT_S)
    if problems:
        remedy = "Models must be on this machine already, or a proxy be set; HF_HUB_OFFLINE=1 saves waiting."
        return Finding("network", f"{constants.ENDPOINT} cannot be reached ({problems[0]})", ATTENTION, remedy)
    return Finding("network", f"{constants.ENDPOINT} can be reached")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
