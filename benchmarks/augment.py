"""Both views of a pair in batches, against one crop and one channel at a time.

    python benchmarks/augment.py [--device cuda] [--cells 32] [--size-px 448] [--repeats 5] [--threads 2]

The reference is the published way of working: a Python loop over crops, and within the intensities a loop over
channels. The outside of a moved image is filled as torchvision does it, by a channel of ones that is moved along. The
reference has the same distributions and, unlike the published code, moves the masks too. Both sides run in turn on the
same pixels; figures are medians; the printed ratio is the smaller one of the two pipelines measured.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from subcell_hf.augmentation.presets import load_preset
from subcell_hf.augmentation.views import ViewMaker
from subcell_hf.types import CropBatch

CHANNELS = ("red", "yellow", "blue", "green")
CELLS_PER_ANTIBODY = 8
FILL = 0.0


def chance(probability: float) -> bool:
    """A coin."""
    return float(torch.rand(())) < probability


def between(low: float, high: float) -> float:
    """A uniform number."""
    return low + (high - low) * float(torch.rand(()))


def warp(crop: Tensor, mask: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """One crop [channels, height, width] and its mask [height, width] by a sampling grid."""
    with_ones = torch.cat([crop, torch.ones_like(crop[:1])])
    moved = F.grid_sample(with_ones[None], grid, align_corners=False)[0]
    moved, coverage = moved[:-1], moved[-1:]
    return moved.sub_(FILL).mul_(coverage).add_(FILL), F.grid_sample(
        mask[None, None].to(crop.dtype), grid, mode="nearest", align_corners=False
    )[0, 0] > 0


def affine(crop: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation ±90°, shift ±20 %, scale 0.8–1.2."""
    angle, scale = torch.deg2rad(torch.tensor(between(-90, 90))), between(0.8, 1.2)
    cosine, sine = float(angle.cos()) / scale, float(angle.sin()) / scale
    theta = torch.tensor(
        [[[cosine, sine, between(-0.4, 0.4)], [-sine, cosine, between(-0.4, 0.4)]]], device=crop.device
    )
    return warp(crop, mask, F.affine_grid(theta, [1, *crop.shape], align_corners=False))


def perspective(crop: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Corners inwards by up to a quarter of half the edge."""
    height, width = crop.shape[-2:]
    start = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    end = start * (1 - 0.25 * torch.rand(4, 2))
    rows = []
    for (x, y), (u, v) in zip(end.tolist(), start.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -x * u, -y * u], [0, 0, 0, x, y, 1, -x * v, -y * v]]
    matrix = torch.cat([torch.linalg.solve(torch.tensor(rows), start.flatten()), torch.ones(1)]).view(3, 3)
    xs = (torch.arange(width, device=crop.device) * 2 + 1) / width - 1
    ys = (torch.arange(height, device=crop.device) * 2 + 1) / height - 1
    points = torch.stack(
        [xs.expand(height, width), ys[:, None].expand(height, width), torch.ones_like(crop[0])], dim=-1
    )
    moved = points @ matrix.T.to(crop.device)
    return warp(crop, mask, (moved[..., :2] / moved[..., 2:])[None])


def move(crop: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The geometric pipeline on one crop."""
    if chance(0.5):
        crop, mask = crop.flip(-1), mask.flip(-1)
    if chance(0.5):
        crop, mask = crop.flip(-2), mask.flip(-2)
    if chance(0.5):
        return affine(crop, mask)
    return perspective(crop, mask) if chance(0.5) else (crop, mask)


def jitter(channel: Tensor) -> Tensor:
    """Brightness and contrast in random order."""
    order = (0, 1) if chance(0.5) else (1, 0)
    for step in order:
        factor = between(0.5, 1.5)
        channel = channel * factor if step == 0 else channel * factor + (1 - factor) * channel.mean()
        channel = channel.clamp(0, 1)
    return channel


def blur(channel: Tensor) -> Tensor:
    """Gaussian blur with a 7×7 kernel."""
    kernel = (-0.5 * (torch.arange(-3.0, 4.0, device=channel.device) / between(0.1, 2.0)) ** 2).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(channel[None, None], (3, 3, 3, 3), mode="reflect")
    return F.conv2d(padded, torch.outer(kernel, kernel)[None, None])[0, 0]


def sharpen(channel: Tensor) -> Tensor:
    """Sharpness × 2."""
    kernel = torch.ones(3, 3, device=channel.device)
    kernel[1, 1] = 5
    smooth = channel.clone()
    smooth[1:-1, 1:-1] = F.conv2d(channel[None, None], (kernel / 13)[None, None])[0, 0]
    return (2 * channel - smooth).clamp(0, 1)


def erase(channel: Tensor) -> Tensor:
    """A rectangle to 0."""
    height, width = channel.shape
    edge = (between(0.02, 0.1) * height * width) ** 0.5
    root = between(float(torch.log(torch.tensor(0.3))), float(torch.log(torch.tensor(3.3)))) / 2
    root = float(torch.tensor(root).exp())
    rows, columns = round(edge * root), round(edge / root)
    top, left = int(between(0, height - rows + 1)), int(between(0, width - columns + 1))
    channel = channel.clone()
    channel[top : top + rows, left : left + columns] = 0
    return channel


def change_intensities(crop: Tensor) -> Tensor:
    """The intensity pipeline on one crop whose last channel is the protein."""
    crop = crop.clone()
    if chance(0.25):
        crop[int(torch.randint(len(crop) - 1, ()))] = 0
    if chance(0.25):
        crop[-1] = crop[-1] * (between(0, 2) / (crop.max() + 1e-6))
    for index in range(len(crop)):
        crop[index] = jitter(crop[index])
    blurred = chance(0.5)
    for index in range(len(crop)):
        if chance(0.5 if blurred else 0.25):
            crop[index] = blur(crop[index]) if blurred else sharpen(crop[index])
    if chance(0.5):
        sigma = 0.01 + 0.04 * torch.rand(len(crop), 1, 1, device=crop.device)
        crop = crop + sigma * torch.randn_like(crop)
    for index in range(len(crop)):
        if chance(0.25):
            crop[index] = erase(crop[index])
    return crop


def one_at_a_time(crops: CropBatch, intense: tuple[bool, ...]) -> Tensor:
    """The reference: all views, crop by crop."""
    views, view_masks = [], []
    for with_intensities in intense:
        crops_made, masks_made = [], []
        for index, (crop, mask) in enumerate(zip(crops["pixels"], crops["cell_masks"], strict=True)):
            if index % 2:
                crop = crop * mask
            crop = crop.float()
            crop = (crop - crop.min()) / (crop.max() - crop.min() + 1e-6)
            crop, mask = move(crop, mask)
            crops_made.append(change_intensities(crop) if with_intensities else crop)
            masks_made.append(mask)
        views.append(torch.stack(crops_made))
        view_masks.append(torch.stack(masks_made))
    torch.stack(view_masks, dim=1)
    return torch.stack(views, dim=1)


def make_crops(cells: int, size_px: int, device: torch.device) -> CropBatch:
    """Random 8-bit pixels with round cells."""
    axis = torch.linspace(-1, 1, size_px)
    disc = (axis[:, None] ** 2 + axis[None, :] ** 2) < 0.4
    pixels = torch.randint(0, 256, (cells, len(CHANNELS), size_px, size_px), dtype=torch.uint8)
    return CropBatch(
        pixels=pixels.to(device),
        cell_masks=disc.repeat(cells, 1, 1).to(device),
        antibodies=(torch.arange(cells) // CELLS_PER_ANTIBODY).to(device),
        locations=torch.zeros(cells, 35, device=device),
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the accelerator's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(preset: str, intense: tuple[bool, ...], crops: CropBatch, repeats: int) -> dict[str, float]:
    """Pairs per second of both sides, run in turn."""
    device = crops["pixels"].device
    maker = ViewMaker(load_preset(preset).with_size(crops["pixels"].shape[-1]))
    generator = torch.Generator().manual_seed(0)
    ours, reference = [], []
    for turn in range(repeats + 1):
        batched = seconds(lambda: maker(crops, CHANNELS, generator), device)
        looped = seconds(lambda: one_at_a_time(crops, intense), device)
        if turn:  # the first turn warms up
            ours.append(batched)
            reference.append(looped)
    cells = len(crops["pixels"])
    batched, looped = statistics.median(ours), statistics.median(reference)
    return {
        "pairs_per_s": round(cells / batched, 1),
        "reference_pairs_per_s": round(cells / looped, 1),
        "ms_per_batch": round(batched * 1e3, 2),
        "ratio": round(looped / batched, 2),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="torch device: cpu or cuda")
    parser.add_argument("--cells", type=int, default=32, help="crops in the batch")
    parser.add_argument("--size-px", type=int, default=448, help="edge of crops and views in pixels")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    crops = make_crops(arguments.cells, arguments.size_px, device)
    figures = {
        "multi_task": measure("multi_task", (False, True), crops, arguments.repeats),
        "contrastive": measure("contrastive", (True, True), crops, arguments.repeats),
    }
    result = {
        "name": "augment",
        "ratio": min(figure["ratio"] for figure in figures.values()),
        "reference": "the same transforms on one crop and one channel at a time, in the same run",
        "figures": figures,
        "shape": list(crops["pixels"].shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
