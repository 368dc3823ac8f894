"""The machine that computes, as far as its speed depends on it."""

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
