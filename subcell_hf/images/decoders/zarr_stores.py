"""Zarr folders on a disk or behind a URL: what their groups say, and stores that notice what is lost."""

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from subcell_hf.images.decoders.image import FieldError
from subcell_hf.images.decoders.remote_paths import RemotePath, is_refused, storage_options
from subcell_hf.storage.downloads.persistence import read_persistently_async

REMOTE_READS = 16
"""Requests at once: a server's answers take long, not processors."""

_GROUP_FILES = (".zgroup", ".zattrs", "zarr.json")
_FACTS_FILES = ("zarr.json", ".zattrs")
_METADATA_FILES = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_CONSOLIDATED_FILES = ("zarr.json", ".zmetadata", "zmetadata")
_BLOSC_HEADER_BYTES = 16


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a Zarr group, whatever its name is."""
    try:
        return path.is_dir() and any((path / name).is_file() for name in _GROUP_FILES)
    except OSError:  # a folder that may not be read, which is reported when it is listed
        return False


def read_facts(group: Path) -> Mapping[str, Any]:
    """What OME-Zarr says of a group; of version 0.5 that is under a separate key.

    One file is read and no array opened; rows of a plate need no groups.

    Args:
        group: Folder of the group.

    Raises:
        FileNotFoundError: If nothing is said of it.
        ValueError: If that is no JSON object.
    """
    for name in _FACTS_FILES:
        try:
            facts = json.loads((group / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        facts = facts.get("attributes", {}) if name == "zarr.json" and isinstance(facts, dict) else facts
        facts = facts.get("ome", facts) if isinstance(facts, dict) else facts
        if not isinstance(facts, dict):
            raise ValueError(f"the attributes are {type(facts).__name__}, expected an object")
        return facts
    raise FileNotFoundError(f"{group} has neither {' nor '.join(_FACTS_FILES)}")


def consolidated_names(store: Path, folder: str) -> list[str]:
    """Names of what lies in a folder of a store, as its consolidated metadata list it: web servers list no folders.

    Args:
        store: Folder of the outermost group.
        folder: Name of a group in it.

    Raises:
        FieldError: If the store has no consolidated metadata.
    """
    for name in _CONSOLIDATED_FILES:
        try:
            content = json.loads((store / name).read_bytes())
        except FileNotFoundError:
            continue
        nodes = (content.get("consolidated_metadata") or {} if name == "zarr.json" else content).get("metadata")
        if nodes:
            ways = (key.split("/") for key in nodes)
            found = {way[1] for way in ways if len(way) > 1 and way[0] == folder}
            return sorted(name for name in found if not name.startswith("."))
    raise FieldError(
        f"{store} does not list its {folder}, and web servers list no folders. Write its consolidated metadata "
        f"(write_consolidated_metadata of SpatialData), or give the URL of one image, {store}/{folder}/<name>."
    )


class CheckedStore(WrapperStore[Store]):
    """A store that keeps in mind which chunks are not there, and refuses those that are cut.

    Attributes:
        path: Folder of the image, for messages.
        missing: Keys that were asked for and are not there.
        blosc_keys: Keys of chunks that are Blosc's alone: it decodes whatever lies behind a cut chunk in memory.
    """

    def __init__(self, store: Store, path: Path):
        super().__init__(store)
        self.path = path
        self.missing: set[str] = set()
        self.blosc_keys: Collection[str] = ()

    async def _get_remote(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None) -> Buffer | None:
        try:
            return await self._store.get(key, prototype, byte_range)
        except Exception as error:  # whatever the library behind the scheme raises
            if not is_refused(error):
                raise
            if key.rpartition("/")[2] in _METADATA_FILES:
                return None
            raise FieldError(
                f"{self.path}: the server does not allow to read {key} (403 Forbidden). Check the permissions, or copy "
                "the image here first."
            ) from error

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self.path)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """One value, as `Store.get` gives it."""
        if isinstance(self.path, RemotePath):
            found = await read_persistently_async(
                partial(self._get_remote, key, prototype, byte_range), f"{self.path}/{key}"
            )
        else:
            found = await super().get(key, prototype, byte_range)
        if found is None:
            self.missing.add(key)
        elif key in self.blosc_keys:
            header = found.as_numpy_array()[:_BLOSC_HEADER_BYTES].tobytes()
            if len(header) < _BLOSC_HEADER_BYTES or len(found) < int.from_bytes(header[12:], "little"):
                raise FieldError(f"{self.path} is truncated: its chunk {key} is cut. Copy or export it again.")
        return found


def open_store(path: Path) -> CheckedStore:
    """A store of a folder that is not written to."""
    if isinstance(path, RemotePath):
        options = storage_options(path.scheme)
        return CheckedStore(FsspecStore.from_url(str(path), storage_options=options, read_only=True), path)
    return CheckedStore(LocalStore(path, read_only=True), path)
