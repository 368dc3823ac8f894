"""Written stand-ins for real fields of view: as large, of as many cells, and in the same files."""

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

from tests.images.written_fields import random_plane, write_png

PIXEL_SIZE_UM = 0.08
JPEG_SAMPLES = {"red": (0,), "green": (1,), "blue": (2,), "yellow": (0, 1)}


def draw_cells(size: int, cells: int, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Round cells of 30 µm with nuclei of 12 µm, in rows: label mask, nuclei and bodies (0 to 1), `[size, size]`."""
    columns = int(np.ceil(np.sqrt(cells)))
    pitch = size / columns
    rows_px, columns_px = np.ogrid[:size, :size]
    reach = int(15 / PIXEL_SIZE_UM) + 2
    mask = np.zeros((size, size), np.uint16)
    nuclei = np.zeros((size, size), np.float32)
    for index in range(cells):
        row, column = (index // columns + 0.5) * pitch, (index % columns + 0.5) * pitch
        around = tuple(slice(max(0, int(at) - reach), int(at) + reach) for at in (row, column))
        distance_um = PIXEL_SIZE_UM * np.hypot(rows_px[around[0]] - row, columns_px[:, around[1]] - column)
        mask[around][distance_um < 15] = index + 1
        nuclei[around][distance_um < 6] = 1
    grain = np.random.default_rng(seed).uniform(0.6, 1, (size // 16 + 1,) * 2).astype(np.float32)
    texture = np.kron(grain, np.ones((16, 16), np.float32))[:size, :size]
    blurred = [ndimage.uniform_filter(plane.astype(np.float32), 9) for plane in (nuclei, mask > 0)]
    return mask, blurred[0], blurred[1] * texture


def write_hpa_fields(folder: Path) -> None:
    """Two fields: a picture per channel in its colour, of which compression leaves a little in the other colours."""
    for name, size, cells in (("800_A6_1", 2048, 16), ("89_B5_1", 1728, 11)):
        for number, (colour, samples) in enumerate(JPEG_SAMPLES.items()):
            _, nuclei, bodies = draw_cells(size, cells, number)
            picture = np.zeros((size, size, 3), np.uint8)
            noise = random_plane(number, (size, size)) % 8
            picture[..., samples] = (200 * (nuclei if colour == "blue" else bodies) + noise)[..., None]
            encoded = imagecodecs.jpeg8_encode(picture, level=90, subsampling="420")
            (folder / f"{name}_{colour}.jpg").write_bytes(encoded)


def write_masked_field(folder: Path) -> None:
    """Twenty cells in blue and green, and their labels."""
    mask, nuclei, bodies = draw_cells(2048, 20, 0)
    noise = random_plane(0, (2048, 2048)) % 8
    write_png(folder / "383_D2_1_blue.png", (40_000 * nuclei).astype(np.uint16) + noise)
    write_png(folder / "383_D2_1_green.png", (40_000 * bodies).astype(np.uint16) + noise)
    write_png(folder / "383_D2_1_mask.png", mask.astype(np.uint8))


def write_cell_painting_field(folder: Path) -> None:
    """Six planes of noise."""
    planes = np.stack([random_plane(seed, (540, 540), "uint16") for seed in range(6)])
    tifffile.imwrite(folder / "BR00143976_C03_f03_crop540_6ch.tiff", planes, photometric="minisblack")


def write_reference_cell(folder: Path) -> None:
    """Floats of either sign, channels last."""
    cell = np.random.default_rng(0).uniform(-1, 1.4, (512, 512, 3)).astype(np.float32)
    tifffile.imwrite(folder / "cell_6.tiff", cell, photometric="rgb")


def write_single_cells(folder: Path) -> None:
    """Four cells, each alone on black."""
    for seed in range(4):
        mask, nuclei, bodies = draw_cells(224, 1, seed)
        noise = random_plane(seed, (224, 224, 4)) % 32
        planes = np.stack([bodies, bodies, nuclei, bodies[::-1]], axis=-1)
        np.save(folder / f"56_F11_1_{seed}.npy", ((200 * planes).astype(np.uint8) + noise) * (mask > 0)[..., None])


def write_montages(folder: Path) -> None:
    """Tiles of 512 px, their background black, with nuclei that are larger in each location than in the one before."""
    rows = ["Id,orig_folder,kaggle2018_label,location"]
    for image in range(10):
        location = ("Cytosol", "Nucleoplasm", "Plasma membrane", "Nucleoli", "Mitochondria")[image // 2]
        rows.append(f"mixed_img{image},img_comb1,0,{location}")
        mask, nuclei, bodies = draw_cells(1536, 9, image)
        protein = np.where(random_plane(image, mask.shape) < 40 * (1 + image // 2), bodies, 0)
        for colour, plane in {"red": bodies, "yellow": bodies, "blue": nuclei, "green": protein}.items():
            pixels = (200 * plane * (mask > 0)).astype(np.uint8)
            (folder / f"mixed_img{image}_{colour}.jpg").write_bytes(imagecodecs.jpeg8_encode(pixels, level=90))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
