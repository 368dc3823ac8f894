"""The machine that computes, as far as its speed depends on it."""

import math
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

_FAST_INSTRUCTIONS = ("avx2", "avx512_f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")


@cache
def processor_name() -> str:
    """Name of the CPU; its architecture where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("model name", "cpu model", "hardware"):
                return value.strip()
    return str(_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def fast_instructions() -> tuple[str, ...]:
    """Names of the CPU's instructions that speed up matrix products, as far as torch knows them."""
    able = _capabilities()
    return tuple(name for name in _FAST_INSTRUCTIONS if able.get(name))


def usable_cores() -> int:
    """Cores that this process may use: of the machine, by its affinity, and by the limit of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    with suppress(OSError, ValueError):
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text(encoding="ascii"))
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text(encoding="ascii"))
        if quota_us > 0:
            cores = min(cores, max(1, math.ceil(quota_us / period_us)))
    return cores


def describe_machine(device: torch.device) -> str:
    """The device, in the words by which measurements are kept.

    Args:
        device: Where to compute.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu = f"{processor_name()} ({' '.join(fast_instructions()) or platform.machine()})"
    return f"{cpu}, {torch.get_num_threads()} threads" if device.type == "cpu" else f"{device.type} of {cpu}"


def _capabilities() -> dict[str, Any]:
    """What torch knows of the CPU; torch before 2.10 knows nothing."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return known
