"""Files of a server that are kept where Hugging Face keeps things, and downloaded again only if they have changed."""

import hashlib
import logging
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from subcell_hf.errors import InputError
from subcell_hf.storage.downloads.files import FileFacts, download_file, look_up_file
from subcell_hf.storage.folder_lock import claim_folder
from subcell_hf.storage.records import read_record, write_record

_logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Folder of what this package downloads, in that of Hugging Face (`HF_HOME`)."""
    return Path(constants.HF_HOME) / "subcell"


def keep_current(url: str, *, ask: bool = True, progress: bool = True) -> tuple[Path, FileFacts]:
    """Have a copy of a file that is the server's, as far as its mark of the content (ETag) says.

    Where the server cannot be reached, an earlier copy is used, with a warning.

    Args:
        url: `https://…` or `http://…`.
        ask: Whether to ask the server if the file has changed where there is a copy.
        progress: Whether to show progress on stderr.

    Returns:
        The copy, and what is known of it.

    Raises:
        InputError: If the file is not there, or the server cannot be reached and there is no earlier copy.
        OSError: If the cache cannot be written.
    """
    name = Path(urlsplit(url).path).name
    folder = cache_folder() / "kept" / hashlib.sha256(url.encode()).hexdigest()[:12]
    copy, note = folder / name, folder / f"{name}.kept.json"
    with claim_folder(folder, wait=True):
        known = read_record(note) if copy.is_file() else None
        facts = None if known is None else FileFacts(**known["facts"])
        if facts is not None and copy.stat().st_size == facts.size_bytes:
            if not ask:
                return copy, facts
            try:
                there = look_up_file(url)
            except InputError as error:
                _logger.warning("%s Until then, the copy of an earlier run is used: %s.", error, copy)
                return copy, facts
            if there is not None and there.etag and there.etag == facts.etag:
                return copy, facts
        facts = download_file(url, copy, progress=progress)
        write_record(note, {"facts": asdict(facts)})
        return copy, facts
