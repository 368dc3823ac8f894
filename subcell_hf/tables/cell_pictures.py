"""Pictures of some of the cells of an embedding table: `pictures.parquet` beside `embeddings.parquet`.

| column | kind | content |
| --- | --- | --- |
| `cell_id` | text | as in the table, in its order |
| `composite` | bytes | PNG, 128 × 128 px, RGB: the crop's channels in their display colours, surroundings included |
| `outline` | bytes | PNG, 128 × 128 px, 1 bit: where the cell's mask lies; empty where there is no mask |
| `attention` | bytes | float16 `[heads, rows, columns]`, C order: pooling attention of the first pass, CLS left out |
| `attention_shape` | int32 list of 3 | heads, rows, columns; 0, 0, 0 where the model has no attention map |

Which cells are shown depends on the list of fields and on cell ids alone, never on processes or batches: see
`PictureBudget`. A table of a run with `pictures=0` has no such file.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from subcell_hf.errors import InputError
from subcell_hf.ontology import CHANNEL_DISPLAY_RGB
from subcell_hf.storage.atomic import write_atomically
from subcell_hf.storage.parquet_files import WRITING, open_parquet
from subcell_hf.tables.attention_maps import CellAttention

PICTURES_FILE = "pictures.parquet"
PICTURE_PX = 128
DEFAULT_PICTURES = 2000

_PATCH_PX = 16

# Channels without a colour of their own take these in turn.
_OTHER_RGB = ((1.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.5, 0.0), (0.6, 0.6, 0.6))

_SCHEMA = pa.schema(
    {
        "cell_id": pa.string(),
        "composite": pa.binary(),
        "outline": pa.binary(),
        "attention": pa.binary(),
        "attention_shape": pa.list_(pa.int32(), 3),
    }
)


@dataclass(frozen=True)
class CellPicture:
    """What a person looks at to judge one cell.

    Attributes:
        cell_id: As in the table.
        composite: PNG bytes, 128 × 128 px, RGB.
        outline: PNG bytes, 128 × 128 px, 1 bit, white inside of the cell; empty where there is no mask.
        attention: `[heads, rows, columns]` float16, or None.
    """

    cell_id: str
    composite: bytes
    outline: bytes
    attention: npt.NDArray[np.float16] | None

    def composite_pixels(self) -> npt.NDArray[np.uint8]:
        """`[128, 128, 3]` uint8."""
        return np.asarray(Image.open(io.BytesIO(self.composite)).convert("RGB"))

    def cell_mask(self) -> npt.NDArray[np.bool_] | None:
        """`[128, 128]` bool, True inside of the cell; None where there is no mask."""
        return np.asarray(Image.open(io.BytesIO(self.outline)).convert("1")) if self.outline else None


@dataclass(frozen=True)
class PictureBudget:
    """Which cells get a picture: the same ones in every run over the same fields.

    Fields share the pictures evenly; where there are more fields than pictures, those fields whose names come first by
    hash get one each. In a field the cells come first by the hash of their ids.

    Attributes:
        pictures: How many there may be in all.
        fields: How many fields of view (or blocks of cells) there are.
        chosen: Names of the fields that get a picture; None: all do.
    """

    pictures: int
    fields: int
    chosen: frozenset[str] | None = None

    @classmethod
    def of_fields(cls, names: Sequence[str], pictures: int = DEFAULT_PICTURES) -> "PictureBudget":
        """Share pictures among fields."""
        if len(names) <= pictures:
            return cls(pictures, len(names))
        return cls(pictures, len(names), frozenset(sorted(names, key=_hash)[:pictures]))

    def choose(self, field: str, cell_ids: Sequence[str]) -> list[int]:
        """Positions, in order, of the cells of a field that get a picture."""
        if self.pictures <= 0 or (self.chosen is not None and field not in self.chosen):
            return []
        count = 1 if self.chosen is not None else self.pictures // max(self.fields, 1)
        return sorted(sorted(range(len(cell_ids)), key=lambda position: _hash(cell_ids[position]))[:count])


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def draw_picture(
    cell_id: str,
    planes: Mapping[str, npt.NDArray[np.float32]],
    cell_mask: npt.NDArray[np.bool_] | None,
    attention: npt.NDArray[np.floating[Any]] | None,
) -> CellPicture:
    """Draw one cell.

    Args:
        cell_id: Its id.
        planes: Channel name → `[height, width]`, any scale; each channel is brought to its own range.
        cell_mask: `[height, width]`, or None.
        attention: `[heads, rows, columns]`, or None.
    """
    others = iter(_OTHER_RGB * (1 + len(planes) // len(_OTHER_RGB)))
    height, width = next(iter(planes.values())).shape
    rgb = np.zeros((height, width, 3), np.float32)
    for name, plane in planes.items():
        low, high = float(plane.min()), float(np.percentile(plane, 99.8))
        scaled = np.clip((plane - low) / max(high - low, 1e-6), 0, 1)
        rgb += scaled[..., None] * np.asarray(CHANNEL_DISPLAY_RGB.get(name) or next(others), np.float32)
    composite = Image.fromarray((np.clip(rgb, 0, 1) * 255).astype(np.uint8))
    outline = b""
    if cell_mask is not None:
        mask = Image.fromarray(cell_mask.astype(np.uint8) * 255)
        outline = _png(mask.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.NEAREST).convert("1", dither=None))
    return CellPicture(
        cell_id,
        _png(composite.resize((PICTURE_PX, PICTURE_PX), Image.Resampling.BOX)),
        outline,
        None if attention is None else np.asarray(attention, np.float16),
    )


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def write_pictures(pictures: Iterable[CellPicture], path: Path) -> None:
    """Write pictures whole or not at all, one row group per 256 of them.

    Args:
        pictures: Pictures, one by one.
        path: File to write.
    """
    with write_atomically(path) as file, pq.ParquetWriter(file, _SCHEMA, compression="none", **WRITING) as writer:
        waiting: list[dict[str, Any]] = []
        for picture in pictures:
            waiting.append(_row(picture))
            if len(waiting) == 256:
                writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))
                waiting.clear()
        writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))


def _row(picture: CellPicture) -> dict[str, Any]:
    attention = picture.attention
    return {
        "cell_id": picture.cell_id,
        "composite": picture.composite,
        "outline": picture.outline,
        "attention": b"" if attention is None else attention.tobytes(),
        "attention_shape": [0, 0, 0] if attention is None else list(attention.shape),
    }


def iterate_pictures(path: Path | str) -> Iterator[CellPicture]:
    """Read pictures one after the other.

    Args:
        path: A file of `write_pictures`, or a folder with `pictures.parquet`.

    Yields:
        One picture after the other.

    Raises:
        InputError: If it is none.
    """
    path = Path(path)
    path = path / PICTURES_FILE if path.is_dir() else path
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(256, columns=_SCHEMA.names):
                for row in batch.to_pylist():
                    shape = row["attention_shape"]
                    attention = np.frombuffer(row["attention"], np.float16).reshape(shape) if any(shape) else None
                    yield CellPicture(row["cell_id"], row["composite"], row["outline"], attention)
    except (ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as pictures of cells: {error}. Embed again to write it.") from error


def iterate_attention_of_pictures(path: Path) -> Iterator[CellAttention]:
    """Attention of the cells that have a picture.

    Args:
        path: A file of `write_pictures`. It does not say how large a patch is; taken to be the published models' 16 px.
    """
    for picture in iterate_pictures(path):
        if picture.attention is not None:
            _, rows, columns = picture.attention.shape
            yield CellAttention(picture.cell_id, picture.attention, (rows * _PATCH_PX, columns * _PATCH_PX))
