"""`.npy` headers are Python, which Python 3.11 before 3.11.8 may fail to parse in two threads at once (gh-106905)."""

import ast
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from subcell_hf.hub.endpoint.endpoint_images import Budget, Limits, decode_image
from subcell_hf.images.files import read_image
from subcell_hf.model.image_files_subcell import read_bytes, read_file

PIXELS = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
READERS: dict[str, Callable[[Path], Any]] = {
    "endpoint": lambda path: decode_image(path.read_bytes(), "cell", Limits(), Budget(Limits())),
    "images": lambda path: read_image(path).pixels,
    "pipeline": lambda path: read_file(path).pixels,
    "pipeline, bytes": lambda path: read_bytes(path.read_bytes(), "cell").pixels,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_header_is_parsed_at_a_time(
    reader: Callable[[Path], Any], order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cell.npy"
    np.save(path, np.asarray(PIXELS, order=order))
    parse, parsing, together = ast.literal_eval, list[str](), list[int]()

    def slow_parse(text: Any) -> Any:
        parsing.append("")
        time.sleep(0.01)  # lets other threads in
        together.append(len(parsing))
        parsing.pop()
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", slow_parse)
    with ThreadPoolExecutor(4) as pool:
        for pixels in pool.map(reader, [path] * 8):
            np.testing.assert_array_equal(np.squeeze(pixels), PIXELS)
    assert set(together) == {1}
