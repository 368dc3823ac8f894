"""`subcell shards hpa:` from a server on this machine, against reading the same files plainly.

The server has the layout of SubCell's public bucket: crops of 1024 x 1024 px with four channels and their masks, cut
from simulated fields and written as OpenCV writes them. Ours is the whole command: table, download, checks, decoding,
cutting, resizing, compression and shards. The reference is what scripts that use these files do: one cell after the
other, a request for each file, decoded by libpng, cut, resized by Pillow, and saved as an array. Both are given in
cells per second of the clock, in which the server takes its share of the same cores, and in processor time: of the
client per cell, its cells per second of one core (`cells_per_cpu_s`), and of the server per cell. Decoders of the same
crops are compared beside it.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import struct
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from subcell_hf.images.decoders.png_planes import decode_png_planes
from subcell_hf.simulation import SimulationSettings, plan_fields, simulate_planned_field
from subcell_hf.types import FieldOfView
from subcell_hf.workflows.shards import shard_published_cells

_COLUMNS = "cell_id,x1,y1,x2,y2,if_plate_id,position,sample,atlas_name,antibody,ensembl_ids,gene_names,locations"
_CHUNK_BYTES = 8192
_CROP_PX = 896


def opencv_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A PNG as OpenCV writes it by default: differences to the left neighbour, run lengths, level 1, 8 kB chunks.

    Args:
        pixels: `[height, width]`, or `[height, width, 4]` in OpenCV's order: blue, green, red, alpha.
    """
    height, width = pixels.shape[:2]
    samples = pixels.reshape(height, width, -1)
    if samples.shape[2] == 4:
        samples = samples[:, :, [2, 1, 0, 3]]
    rows = samples.copy()
    rows[:, 1:] -= samples[:, :-1]
    filtered = np.concatenate([np.ones((height, 1), np.uint8), rows.reshape(height, -1)], axis=1)
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 8, zlib.Z_RLE)
    packed = packer.compress(filtered.tobytes()) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 4: 6}[samples.shape[2]], 0, 0, 0)
    pieces = [packed[start : start + _CHUNK_BYTES] for start in range(0, len(packed), _CHUNK_BYTES)]
    chunks = [(b"IHDR", header), *((b"IDAT", piece) for piece in pieces), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def published_files(
    fields: Sequence[FieldOfView],
    size_px: int = 1024,
    encode: Callable[[npt.NDArray[np.uint8]], bytes] = opencv_png,
) -> dict[str, bytes]:
    """Path → content of the files that the bucket would have of some fields.

    Args:
        fields: With label masks and the channels red, yellow, blue, green.
        size_px: Edge of the crops.
        encode: Writes a PNG from OpenCV's order of channels.
    """
    files, rows = {}, []
    for field in fields:
        plate, known, labels = field.metadata["plate"], field.metadata, field.label_mask
        padded = np.pad(field.pixels, ((0, 0), (size_px, size_px), (size_px, size_px)))
        label_mask = np.pad(np.zeros_like(field.pixels[0], np.uint16) if labels is None else labels, size_px)
        for label in np.unique(label_mask[label_mask > 0]):
            inside = label_mask == label
            rows_in, columns_in = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
            top, left = ((found[0] + found[-1] + 1 - size_px) // 2 for found in (rows_in, columns_in))
            window = (slice(top, top + size_px), slice(left, left + size_px))
            path = f"{plate}/{field.name}_{label}_cell"
            files[f"{path}_image.png"] = encode(np.ascontiguousarray(padded[:, *window].transpose(1, 2, 0)))
            files[f"{path}_mask.png"] = encode(inside[window].astype(np.uint8) * 255)
            box = [columns_in[0] - left, rows_in[0] - top, columns_in[-1] + 1 - left, rows_in[-1] + 1 - top]
            locations = known["locations"].replace(";", ",")
            values = [f"{label}.0", *(f"{value}.0" for value in box), plate, known["well"], known["sample"]]
            values += [known["cell_line"], known["antibody"], f"ENSG_{known['gene']}", known["gene"], f'"{locations}"']
            rows.append(",".join([str(len(rows)), *map(str, values)]))
    files["metadata.csv"] = "\n".join([f",{_COLUMNS}", *rows, ""]).encode()
    return files


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}

    def do_GET(self) -> None:
        content = self.files[self.path.lstrip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 256


def _serve(files: dict[str, bytes], ports: Any, times: Any) -> None:
    """Serve files in this process; whatever is put into `times` is answered by its processor time."""
    _Handler.files = files
    server = _Server(("127.0.0.1", 0), _Handler)
    ports.put(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while times.recv():
        times.send(time.process_time())


def read_plainly(url: str, names: Sequence[str], folder: Path) -> None:
    """The reference: file after file, libpng, Pillow, numpy."""
    for name in names:
        image, mask = (
            imagecodecs.png_decode(urllib.request.urlopen(f"{url}/{name}_{kind}.png").read())
            for kind in ("image", "mask")
        )
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        starts = [max(0, (found[0] + found[-1] + 1 - _CROP_PX) // 2) for found in (rows, columns)]
        window = tuple(slice(start, start + _CROP_PX) for start in starts)
        planes = [Image.fromarray(plane[window]) for plane in (*image.transpose(2, 0, 1), mask)]
        small = [plane.resize((448, 448), Image.Resampling.BILINEAR) for plane in planes[:-1]]
        small.append(planes[-1].resize((448, 448), Image.Resampling.NEAREST))
        np.save(folder / f"{Path(name).name}.npy", np.stack([np.asarray(plane) for plane in small]))


def compare_decoders(crops: Sequence[bytes], repeats: int) -> dict[str, float]:
    """Processor time in milliseconds that a crop takes in several decoders, its channels as planes in the end."""

    def planes(interleaved: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.ascontiguousarray(interleaved.transpose(2, 0, 1))

    decoders: dict[str, Callable[[bytes], object]] = {
        "ours (libdeflate)": lambda crop: decode_png_planes(crop, 4, "crop"),
        "imagecodecs png (libpng)": lambda crop: planes(imagecodecs.png_decode(crop)),
        "imagecodecs spng (libspng)": lambda crop: planes(imagecodecs.spng_decode(crop)),
        "Pillow": lambda crop: planes(np.asarray(Image.open(io.BytesIO(crop)))),
    }
    figures = {}
    for name, decode in decoders.items():
        taken = []
        for _ in range(repeats):
            start = time.process_time()
            for crop in crops:
                decode(crop)
            taken.append((time.process_time() - start) / len(crops))
        figures[name] = round(1000 * statistics.median(taken), 2)
    return figures


def main() -> None:
    """Run and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=24, help="Simulated fields, about ten cells each.")
    parser.add_argument("--size-px", type=int, default=1024, help="Edge of the crops.")
    parser.add_argument("--reference-cells", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="Processes of ours.")
    options = parser.parse_args()
    settings = SimulationSettings(antibodies=4)
    fields = [simulate_planned_field(planned, settings) for planned in plan_fields(options.fields, antibodies=4)]
    files = published_files(fields, options.size_px)
    names = [name.removesuffix("_image.png") for name in files if name.endswith("_image.png")]
    ports: Any = multiprocessing.Queue()
    times, other_end = multiprocessing.Pipe()
    server = multiprocessing.Process(target=_serve, args=(files, ports, other_end), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ports.get()}"

    def measured(function: Callable[[], object], cells: int) -> dict[str, float]:
        times.send(True)
        served, begun, cpu = times.recv(), time.perf_counter(), time.process_time()
        function()
        wall, own = time.perf_counter() - begun, time.process_time() - cpu
        times.send(True)
        return {
            "cells_per_s": cells / wall,
            "cpu_ms_per_cell": 1000 * own / cells,
            "cells_per_cpu_s": cells / own,
            "server_cpu_ms_per_cell": 1000 * (times.recv() - served) / cells,
        }

    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "reference": []}
    few = names[: options.reference_cells]
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds["reference"].append(measured(lambda: read_plainly(url, few, Path(folder)), len(few)))
        with tempfile.TemporaryDirectory() as folder:
            shards = Path(folder) / "shards"
            run = partial(shard_published_cells, f"hpa:{url}", shards, split_by="gene", progress=False)
            rounds["ours"].append(measured(partial(run, workers=options.workers), len(names)))
    figures = {
        name: {key: round(statistics.median(one[key] for one in found), 2) for key in found[0]}
        for name, found in rounds.items()
    }
    crops = [files[f"{name}_image.png"] for name in names[:8]]
    result = {
        "name": "published_cells",
        "ratio": round(figures["ours"]["cells_per_s"] / figures["reference"]["cells_per_s"], 2),
        "reference": "one cell after the other: urllib, libpng, Pillow, numpy.save; cells per second",
        "cells": len(names),
        "kilobytes_per_cell": round(sum(map(len, files.values())) / len(names) / 1000),
        "figures": figures,
        "decode_cpu_ms": compare_decoders(crops, options.rounds),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
