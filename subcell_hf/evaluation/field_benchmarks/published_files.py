"""Files of a benchmark are compared with those that were used first, so that scores are of the same data."""

from collections.abc import Sequence
from pathlib import Path

from subcell_hf.errors import InputError
from subcell_hf.storage.downloads.cached_files import cache_folder
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.records import describe_files, find_damage, read_record, write_record

_FOLDER = "benchmarks"


def check_published_files(name: str, folder: Path, paths: Sequence[Path], cache: Path | None = None) -> None:
    """Refuse files that are not those of the first use of a benchmark; record those that are new.

    Args:
        name: Name of the benchmark.
        folder: Folder of its data.
        paths: Files in it, as they are published.
        cache: Where `benchmarks/NAME.json` with the checksums is kept; None: `subcell` in the cache of Hugging Face
            (`HF_HOME`).

    Raises:
        InputError: If a file differs, or the record is damaged.
    """
    place = (cache or cache_folder()) / _FOLDER
    record = place / f"{name}.json"
    with claim_folder(place, wait=True):
        known = {}
        if record.is_file():
            content = read_record(record)
            if content is None:
                raise InputError(f"{record} is damaged. Remove it; the checksums are recorded anew.")
            known = content["files"]
        found = describe_files(folder, paths)
        if differing := find_damage(folder, {file: facts for file, facts in known.items() if file in found}):
            raise InputError(
                f"{folder} does not hold the files with which {name} was first run here: {'; '.join(differing)}. "
                f"Download them again; if the earlier files were wrong, remove {record}."
            )
        if set(found) - set(known):
            write_record(record, {"files": {**known, **found}})
