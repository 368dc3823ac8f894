"""A simulated confocal microscope: from densities to the numbers of a camera."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import imagecodecs
import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.simulation.drawing import FloatImage, blur, blur_widely, smooth_noise

PHOTONS = {"red": 1200.0, "yellow": 160.0, "blue": 3000.0, "green": 180.0}
"""Channel → photons that a pixel at full range has seen; fewer means noisier."""


@dataclass(frozen=True)
class PlateOptics:
    """What a plate and its day at the microscope do to every image: the batch effect.

    What is not drawn for a plate has no effect by default; `simulation.acquisition` draws all of it for a field.

    Attributes:
        gains: Channel → brightness, times; a channel that is absent has 1.
        photons: Photons, times; below 1 is noisier.
        focus_um: Standard deviation of the microscope's blur.
        haze: Share of the light that comes from out of focus.
        offset: Camera's dark level as a share of its range; negative cuts dim pixels to zero.
        shading: Brightness lost at the corners, 0 to 1.
        shading_centre: Brightest place as (row, column) share of the field.
        defocus: Distance of the field from the focal plane, times.
        read_noise: Standard deviation of the camera's own noise as a share of its range.
        background: Light between the cells as a share of the camera's range.
        unevenness: Standard deviation of the background from place to place as a share of its mean.
        bleed: (Channel, other channel) → share of the first one's light that is also seen in the other.
        gammas: Channel → exponent of its intensities after the photograph; above 1 darkens what is dim.
        levels: Number of grey levels before compression; None for those of the file.
        jpeg_quality: JPEG quality, 1 to 100, whose loss is applied to the pixels; None for no loss.
    """

    gains: dict[str, float] = field(default_factory=dict)
    photons: float = 1.0
    focus_um: float = 0.10
    haze: float = 0.1
    offset: float = -0.01
    shading: float = 0.12
    shading_centre: tuple[float, float] = (0.5, 0.5)
    defocus: float = 1.0
    read_noise: float = 0.004
    background: float = 0.0
    unevenness: float = 0.0
    bleed: dict[tuple[str, str], float] = field(default_factory=dict)
    gammas: dict[str, float] = field(default_factory=dict)
    levels: int | None = None
    jpeg_quality: int | None = None


def simulate_plate_optics(seed: int, number: int) -> PlateOptics:
    """Simulate the batch effect of one plate.

    Args:
        seed: Seed of the data set.
        number: Number of the plate.

    Returns:
        The same optics for the same arguments.
    """
    generator = np.random.default_rng([seed, 2, number])
    return PlateOptics(
        gains={channel: generator.lognormal(0, 0.16) for channel in PHOTONS},
        photons=generator.lognormal(0, 0.5),
        focus_um=generator.uniform(0.085, 0.125),
        haze=generator.uniform(0.05, 0.16),
        offset=generator.uniform(-0.025, 0.005),
        shading=generator.uniform(0.05, 0.25),
        shading_centre=(generator.uniform(0.35, 0.65), generator.uniform(0.35, 0.65)),
    )


def simulate_defocus(generator: np.random.Generator, shape: tuple[int, int], pixel_size_um: float) -> FloatImage:
    """How far out of focus each place of a field lies, 0 sharp to 1, the same for all its channels."""
    tilt = smooth_noise(generator, shape, 12 / pixel_size_um)
    return (0.1 + 0.35 * tilt).clip(0, 1)


def mix_channels(densities: Mapping[str, FloatImage], optics: PlateOptics) -> dict[str, FloatImage]:
    """Densities `[height, width]` of every channel with the light that bleeds into it from the others."""
    mixed = dict(densities)
    for (source, channel), share in optics.bleed.items():
        if channel in mixed:
            mixed[channel] = mixed[channel] + share * densities[source]
    return mixed


def acquire_channel(
    generator: np.random.Generator,
    density: FloatImage,
    channel: str,
    optics: PlateOptics,
    pixel_size_um: float,
    defocus: FloatImage | None = None,
) -> FloatImage:
    """Photograph a density: blur, haze, background, shading, shot noise, read noise, and what is lost in storing it.

    Args:
        generator: Source of randomness.
        density: `[height, width]` float32, 1 is the camera's full range.
        channel: Colour name; sets how many photons there are.
        optics: Batch effect.
        pixel_size_um: Edge of a pixel in micrometres.
        defocus: `[height, width]` as `simulate_defocus` makes it; None for a field in focus everywhere.

    Returns:
        `[height, width]` float32 in [0, 1].
    """
    sharp = blur(density, optics.focus_um / pixel_size_um)
    if defocus is not None:
        sharp += (optics.defocus * defocus).clip(0, 1) * (blur_widely(density, 0.42 / pixel_size_um) - sharp)
    hazy = blur_widely(density, 2.5 / pixel_size_um)
    light = (1 - optics.haze) * sharp + optics.haze * hazy
    if optics.background > 0:
        wander = optics.unevenness * smooth_noise(generator, (density.shape[0], density.shape[1]), 15 / pixel_size_um)
        light += optics.background * (1 + wander).clip(min=0)
    signal = light * _shading(optics, density.shape)
    signal *= optics.gains.get(channel, 1.0)
    # What would be brighter than the range saturates gently: gain is set for the typical cell, not for the brightest.
    signal = np.where(signal > 0.7, 0.7 + 0.3 * np.tanh((signal - 0.7) / 0.3), signal)
    # Shot noise as a normal variable of variance = mean, and a little noise of the camera itself.
    deviation = np.sqrt(signal.clip(min=0) / (PHOTONS[channel] * optics.photons) + optics.read_noise**2)
    noisy = signal + deviation * generator.standard_normal(signal.shape, dtype=np.float32)
    return _store((noisy + optics.offset).clip(0, 1), channel, optics)


def _store(image: FloatImage, channel: str, optics: PlateOptics) -> FloatImage:
    """What a program leaves of an image in [0, 1]: its intensity law, its grey levels, its compression."""
    if channel in optics.gammas:
        image = image ** optics.gammas[channel]
    if optics.levels is not None:
        image = np.rint(image * (optics.levels - 1)) / (optics.levels - 1)
    if optics.jpeg_quality is not None:
        # The loss alone is added, so that images of 16 bits keep theirs.
        shown = np.rint(image * 255).astype(np.uint8)
        decoded = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(shown, level=optics.jpeg_quality))
        image = (image + (decoded.astype(np.float32) - shown) / 255).clip(0, 1)
    return image


def _shading(optics: PlateOptics, shape: tuple[int, ...]) -> FloatImage:
    """Uneven illumination: 1 at its centre, falling with the squared distance from it."""
    down, right = (
        (np.linspace(0, 1, length, dtype=np.float32) - centre) ** 2
        for length, centre in zip(shape, optics.shading_centre, strict=True)
    )
    shading: FloatImage = 1 - 2 * optics.shading * (down[:, None] + right[None, :])
    return shading


def digitise(image: FloatImage, bit_depth: int) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Round [0, 1] to the whole range of 8 or 16 bits.

    Raises:
        InputError: If `bit_depth` is neither.
    """
    if bit_depth == 8:
        small: npt.NDArray[np.uint8] = np.rint(image * 255).astype(np.uint8)
        return small
    if bit_depth == 16:
        large: npt.NDArray[np.uint16] = np.rint(image * 65535).astype(np.uint16)
        return large
    raise InputError(f"Cannot write images of {bit_depth} bits: expected 8 or 16.")
