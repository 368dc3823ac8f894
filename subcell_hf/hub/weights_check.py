"""Whether a folder's weights are whole, plain and nothing but numbers, before they are loaded or published."""

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from subcell_hf.errors import InputError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*\.safetensors")


def check_weights(folder: Path) -> tuple[Path, ...]:
    """Check the safetensors files of a folder without loading a tensor.

    Args:
        folder: With `model.safetensors`, or `model.safetensors.index.json` and the files that it names.

    Returns:
        The files.

    Raises:
        InputError: If there are none, one is damaged or truncated, or the index is damaged or names anything but plain
            files of the folder.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: give a trained, converted or downloaded model's folder.")
    if (folder / WEIGHTS_FILE).is_file():
        _open_weights(folder / WEIGHTS_FILE)
        return (folder / WEIGHTS_FILE,)
    if not (folder / INDEX_FILE).is_file():
        pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        instead = f" (it has {pickles}, a pickle, which is not opened)" if pickles else ""
        raise InputError(
            f"{folder} has no {WEIGHTS_FILE}{instead}: give a folder that save_pretrained, a training run or "
            "`subcell convert` wrote."
        )
    named = _read_index(folder / INDEX_FILE)
    for name, tensors in named.items():
        missing = sorted(tensors - _open_weights(folder / name))
        if missing:
            raise InputError(f"{folder / name} lacks {missing[0]}, which {INDEX_FILE} promises: fetch it again.")
    return tuple(folder / name for name in sorted(named))


def _read_index(path: Path) -> dict[str, set[str]]:
    """File name → names of its tensors."""
    try:
        tensors = dict(json.loads(path.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no index of weights ({error!r}): fetch it again.") from error
    named: dict[str, set[str]] = {}
    for tensor, name in tensors.items():
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise InputError(
                f"{path} names the file {name!r}: expected plain names such as model-00001-of-00002.safetensors, "
                "without folders. Do not use weights from a source that you do not trust."
            )
        named.setdefault(name, set()).add(tensor)
    return named


def _open_weights(path: Path) -> set[str]:
    """Names of the tensors; opening compares the header with the size of the file."""
    if not path.is_file():
        raise InputError(f"{path} is missing, though the index names it: fetch it again.")
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated ({error}): fetch or write it again.") from error
