"""Statistics of simulated fields beside those of real fields of the Human Protein Atlas, in one figure and one line.

One field of every simulated cell line, each with another protein, and the real fields of a folder
(`<name>_<colour>.jpg`, 0.08 µm per pixel) are measured alike: the histogram of each channel, the correlation of every
pair of channels, the power spectrum of each channel (radial mean, share of the variance), and the areas of nuclei
(Otsu's threshold of the blue channel, whole nuclei of 40 to 1,000 µm²). Two real fields show two cell lines and two
proteins only: what lies within their spread is plausible, and nothing more.

    PYTHONPATH=. python benchmarks/realism.py ../shared/data/hpa_fields --figure docs/images/simulated_statistics.png
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import imagecodecs
import matplotlib
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import regionprops
from skimage.segmentation import clear_border

from subcell_hf.ontology import CHANNEL_STAINS, PUBLISHED_PIXEL_SIZE_UM
from subcell_hf.simulation.optics import simulate_plate_optics
from subcell_hf.simulation.outlines import CELL_LINES
from subcell_hf.simulation.simulate import simulate_antibodies, simulate_field

PIXEL_SIZE_UM = PUBLISHED_PIXEL_SIZE_UM
SIZE_PX = 1024
CHANNELS = tuple(CHANNEL_STAINS)
PAIRS = tuple(combinations(CHANNELS, 2))
LEVELS = np.linspace(0, 1, 33)
WAVELENGTHS_UM = np.geomspace(0.3, 20, 16)
NUCLEUS_UM2 = (40, 1000)

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Statistics:
    """Of one field.

    Attributes:
        histograms: `[channels, levels]` share of the pixels.
        correlations: `[pairs]` of the pixels of two channels.
        spectra: `[channels, bands]` share of the variance in each band of wavelengths.
        nuclei_um2: `[nuclei]` areas.
    """

    histograms: Floats
    correlations: Floats
    spectra: Floats
    nuclei_um2: Floats


def measure_field(pixels: Floats) -> Statistics:
    """Measure `[channels, height, width]` in [0, 1]."""
    histograms = np.array([np.histogram(plane, LEVELS)[0] / plane.size for plane in pixels])
    correlation = np.corrcoef(pixels.reshape(len(pixels), -1))
    correlations = np.array([correlation[CHANNELS.index(one), CHANNELS.index(other)] for one, other in PAIRS])
    return Statistics(histograms, correlations, measure_spectra(pixels), measure_nuclei(pixels[CHANNELS.index("blue")]))


def measure_spectra(pixels: Floats) -> Floats:
    """Share of each channel's variance in bands of wavelengths, `[channels, bands]`."""
    _, height, width = pixels.shape
    window = np.outer(np.hanning(height), np.hanning(width))
    cycles = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) / PIXEL_SIZE_UM
    band = np.digitize(cycles, 1 / WAVELENGTHS_UM[::-1])
    found = []
    for plane in pixels:
        power = np.abs(np.fft.fft2((plane - plane.mean()) * window)) ** 2
        inside = np.bincount(band.ravel(), power.ravel(), minlength=len(WAVELENGTHS_UM) + 1)[1:-1][::-1]
        found.append(inside / power.sum())
    return np.array(found)


def measure_nuclei(blue: Floats) -> Floats:
    """Areas of whole nuclei in µm²."""
    smooth = ndimage.gaussian_filter(blue, 0.4 / PIXEL_SIZE_UM)
    nuclei = clear_border(ndimage.label(ndimage.binary_fill_holes(smooth > threshold_otsu(smooth)))[0])
    areas = np.array([nucleus.area for nucleus in regionprops(nuclei)]) * PIXEL_SIZE_UM**2
    return areas[(areas > NUCLEUS_UM2[0]) & (areas < NUCLEUS_UM2[1])]


def read_real(folder: Path) -> dict[str, Floats]:
    """Name of a field → pixels of its middle, as large as a simulated field; of each JPEG the brightest band counts."""
    fields = {}
    for blue in sorted(folder.glob("*_blue.jpg")):
        name = blue.name.removesuffix("_blue.jpg")
        planes = [imagecodecs.jpeg_decode((folder / f"{name}_{colour}.jpg").read_bytes()) for colour in CHANNELS]
        flat = [plane.max(axis=-1) if plane.ndim == 3 else plane for plane in planes]
        top, left = ((edge - SIZE_PX) // 2 for edge in flat[0].shape)
        fields[name] = np.stack(flat)[:, top : top + SIZE_PX, left : left + SIZE_PX].astype(np.float32) / 255
    return fields


def simulate_lines(seed: int) -> dict[str, Floats]:
    """Cell line → pixels of a field, each with an antibody and a plate of its own."""
    antibodies = simulate_antibodies(len(CELL_LINES), seed)
    fields = {}
    for number, (line, antibody) in enumerate(zip(CELL_LINES, antibodies, strict=True)):
        field = simulate_field(
            [seed, number], antibody, line, optics=simulate_plate_optics(seed, number + 1), size_px=SIZE_PX,
            pixel_size_um=PIXEL_SIZE_UM,
        )  # fmt: skip
        fields[line] = field.pixels.astype(np.float32) / 255
    return fields


def draw(real: Mapping[str, Statistics], simulated: Mapping[str, Statistics], path: Path) -> None:
    """Histograms and spectra of the channels above, correlations and nuclei below."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 4, figsize=(13, 9), layout="constrained")
    kinds = (("simulated", simulated, "C0"), ("real", real, "C3"))
    middle = np.sqrt(WAVELENGTHS_UM[1:] * WAVELENGTHS_UM[:-1])
    for column, channel in enumerate(CHANNELS):
        for kind, fields, colour in kinds:
            for number, one in enumerate(fields.values()):
                style: dict[str, Any] = {"color": colour, "alpha": 0.7, "label": None if number else kind}
                axes[0, column].plot(LEVELS[:-1] * 255, one.histograms[column], **style)
                axes[1, column].plot(middle, one.spectra[column], **style)
        axes[0, column].set(title=CHANNEL_STAINS[channel], yscale="log", xlabel="intensity", ylim=(1e-5, 1))
        axes[1, column].set(xscale="log", yscale="log", xlabel="wavelength (µm)", ylim=(1e-5, 1))
    axes[0, 0].set_ylabel("share of pixels")
    axes[1, 0].set_ylabel("share of variance")
    axes[0, 0].legend()
    whole = figure.add_subplot(axes[2, 0].get_gridspec()[2, :2])
    nuclei = figure.add_subplot(axes[2, 2].get_gridspec()[2, 2:])
    for panel in axes[2]:
        panel.remove()
    names = [*simulated, *real]
    for position, name in enumerate(names):
        kind, fields, colour = kinds[0] if name in simulated else kinds[1]
        one = fields[name]
        whole.plot(range(len(PAIRS)), one.correlations, "o", color=colour, alpha=0.7)
        nuclei.plot(np.full(len(one.nuclei_um2), position), one.nuclei_um2, "o", color=colour, alpha=0.6)
    whole.set_xticks(range(len(PAIRS)), ["–".join(pair) for pair in PAIRS])
    whole.set_ylabel("correlation of channels")
    nuclei.set_xticks(range(len(names)), names)
    nuclei.set_ylabel("area of nuclei (µm²)")
    figure.savefig(path, dpi=80)


def describe(fields: Mapping[str, Statistics]) -> dict[str, Any]:
    """Plain numbers of each field."""
    return {
        name: {
            "correlations": {
                "-".join(pair): round(float(v), 2) for pair, v in zip(PAIRS, one.correlations, strict=True)
            },
            "finer_than_1_um": {
                channel: round(float(share[WAVELENGTHS_UM[1:] <= 1].sum()), 4)
                for channel, share in zip(CHANNELS, one.spectra, strict=True)
            },
            "nuclei": len(one.nuclei_um2),
            "nucleus_median_um2": round(float(np.median(one.nuclei_um2)), 0) if len(one.nuclei_um2) else None,
        }
        for name, one in fields.items()
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="folder of real fields")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated fields")
    parser.add_argument("--figure", type=Path, help="PNG to write")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args(words)
    real = {name: measure_field(pixels) for name, pixels in read_real(arguments.real).items()}
    simulated = {name: measure_field(pixels) for name, pixels in simulate_lines(arguments.seed).items()}
    if arguments.figure:
        draw(real, simulated, arguments.figure)
    line = json.dumps({
        "name": "statistics of simulated fields and of real ones",
        "figures": {"real": describe(real), "simulated": describe(simulated)},
    })  # fmt: skip
    if arguments.output:
        arguments.output.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
