"""How fast training goes and where the time of a step is spent, measured without making the device wait.

A step is cut into phases: `data` (waiting for the loader), `views`, `forward`, `backward` and `optimizer`. On a GPU the
cuts are events in the stream and are read when a line of the log is due, which waits for the device anyway: so a phase
is the time that passed on the device, and `data` the time in which it had nothing to do because no batch was there.
Elsewhere they are readings of the host's clock. Logging, validation, checkpoints and pictures lie between steps and
count nowhere.
"""

import time
from collections.abc import Mapping
from importlib.util import find_spec

import torch

_PEAK_BUDGET_S = 1.0

PHASES = ("data", "views", "forward", "backward", "optimizer")

# Dense peak in TFLOP/s (no sparsity) of a name that torch.cuda.get_device_name contains: float32 without tensor cores,
# TF32, and 16 bits with accumulation in float32. From the vendor's data sheets; the first name that fits counts.
_PEAKS: Mapping[str, tuple[float, float, float]] = {
    "B200": (80, 1125, 2250),
    "GH200": (67, 494.7, 989.4),
    "H200": (67, 494.7, 989.4),
    "H100 NVL": (60, 417.5, 835.5),
    "H100 PCIe": (51, 378, 756),
    "H100": (67, 494.7, 989.4),
    "H800": (67, 494.7, 989.4),
    "A100": (19.5, 156, 312),
    "A800": (19.5, 156, 312),
    "A30": (10.3, 82, 165),
    "A40": (37.4, 74.8, 149.7),
    "A10G": (31.5, 35, 70),
    "A10": (31.2, 62.5, 125),
    "L40S": (91.6, 183, 362),
    "L40": (90.5, 90.5, 181),
    "L4": (30.3, 60, 121),
    "RTX 6000 Ada": (91.1, 182, 364),
    "RTX A6000": (38.7, 77.4, 154.8),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71),
    "V100": (15.7, 15.7, 125),
    "T4": (8.1, 8.1, 65),
}


def known_peak(device_name: str, precision: str, tf32: bool) -> float | None:
    """Peak of a GPU, from its data sheet.

    Args:
        device_name: As `torch.cuda.get_device_name` says.
        precision: `"no"`, `"fp16"` or `"bf16"`: that of the matrix multiplications.
        tf32: Whether float32 multiplications may round to TF32.

    Returns:
        Operations per second, a multiplication and an addition each one; None for a device that is not known.
    """
    for name, (plain, rounded, half) in _PEAKS.items():
        if name in device_name:
            return 1e12 * (half if precision != "no" else rounded if tf32 else plain)
    return None


def measured_peak(precision: str, edge: int = 1536, repeats: int = 6) -> float:
    """Best rate of a square matrix multiplication on this CPU; takes a fraction of a second and draws nothing.

    Args:
        precision: `"no"`, `"fp16"` or `"bf16"`.
        edge: Rows and columns.
        repeats: Multiplications of which the fastest counts.

    Returns:
        Operations per second, a multiplication and an addition each one.
    """
    dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    matrix = torch.full((edge, edge), 0.5, dtype=dtype)
    seconds: list[float] = []
    # Without instructions for 16 bits one multiplication may take seconds.
    while len(seconds) < repeats and sum(seconds) < _PEAK_BUDGET_S:
        started = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return float(2 * edge**3 / min(seconds))


def device_peak(device: torch.device, precision: str) -> float | None:
    """Operations per second that a device could do at best: looked up for GPUs, measured on CPUs, else None."""
    if device.type == "cuda":
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return known_peak(torch.cuda.get_device_name(device), precision, tf32)
    return measured_peak(precision) if device.type == "cpu" else None


class StepClock:
    """Adds up the time of each phase of training steps.

    ```python
    clock.start()
    batch = next(batches)
    clock.end("data")
    loss = model(batch)
    clock.end("forward")
    clock.read()  # {"data": 0.01, "forward": 0.4}
    ```

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._last: float | None = None
        self._events: list[tuple[str | None, torch.cuda.Event]] = []

    def start(self) -> None:
        """Begin a phase; time since the last one ended counts nowhere."""
        if self._on_cuda:
            self._events.append((None, _record()))
        else:
            self._last = time.perf_counter()

    def end(self, phase: str) -> None:
        """End a phase; the next one begins here. Nothing happens where none was begun.

        Args:
            phase: Its name.
        """
        if self._on_cuda:
            if self._events:
                self._events.append((phase, _record()))
            return
        if self._last is None:
            return
        now = time.perf_counter()
        self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._last
        self._last = now

    def forget(self) -> None:
        """Throw away what was measured since the last reading; the device is not waited for."""
        self._seconds, self._events, self._last = {}, [], None

    def read(self) -> dict[str, float]:
        """Seconds of each phase since the last reading; on a GPU this waits for it."""
        if self._events:
            self._events[-1][1].synchronize()
            for (_, before), (phase, after) in zip(self._events, self._events[1:], strict=False):
                if phase is not None:
                    self._seconds[phase] = self._seconds.get(phase, 0.0) + before.elapsed_time(after) / 1000
            self._events = []
        seconds, self._seconds = self._seconds, {}
        return seconds


def _record() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class ThroughputMeter:
    """Turns phases, cells and floating-point operations into the figures of a line of the log.

    Args:
        device: Of this process.
        precision: `"no"`, `"fp16"` or `"bf16"`.
        flops_per_cell: Of forward and backward pass.
    """

    def __init__(self, device: torch.device, precision: str, flops_per_cell: float) -> None:
        self.clock = StepClock(device)
        self.device = device
        self.precision = precision
        self.flops_per_cell = flops_per_cell
        self._peak: float | None = None
        self._peak_known = False
        self._cells = 0
        self._steps = 0
        self._warm = False

    def count(self, cells: int) -> None:
        """Note cells that this process was given."""
        self._cells += cells

    def finish_step(self) -> None:
        """End an optimizer step; the first one, which compiles and fills caches, is not counted."""
        self.clock.end("optimizer")
        if self._warm:
            self._steps += 1
            return
        self._warm = True
        self._cells = 0
        self.clock.forget()

    def read(self, processes: int = 1) -> dict[str, float]:
        """Figures since the last reading; empty if no step was taken.

        Args:
            processes: That train together, each at the same pace.

        Returns:
            `cells_per_s` of all processes; `step_s`, and of it `data_s`, `views_s`, `forward_s`, `backward_s` and
            `optimizer_s`; `mfu`, the share of the device's peak that the model's own operations make up, where the peak
            is known; `memory_gib`, the most that tensors have held on the GPU so far, or what the process holds in RAM
            now; `gpu_utilization` from 0 to 1 where nvidia-ml-py is installed.
        """
        phases = self.clock.read()
        total, steps = sum(phases.values()), self._steps
        if not steps or not total:
            return {}
        figures = {"cells_per_s": processes * self._cells / total, "step_s": total / steps}
        figures |= {f"{name}_s": phases.get(name, 0.0) / steps for name in PHASES}
        if not self._peak_known:
            self._peak, self._peak_known = device_peak(self.device, self.precision), True
        if self._peak and self.flops_per_cell:
            figures["mfu"] = self.flops_per_cell * self._cells / total / self._peak
        figures |= _memory_and_utilization(self.device)
        self._cells = self._steps = 0
        return figures


def _memory_and_utilization(device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        figures = {"memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}
        if find_spec("pynvml") is not None:
            figures["gpu_utilization"] = torch.cuda.utilization(device) / 100
        return figures
    import psutil

    return {"memory_gib": psutil.Process().memory_info().rss / 2**30}
