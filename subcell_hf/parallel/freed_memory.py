"""Memory that a process frees and soon needs again."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h
_PIECE_BYTES, _KEPT_BYTES = 2**30, 2**31 - 1
_OLDER_PIECE_BYTES = 2**25  # the most that some versions of glibc accept


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what is freed for the next use; fresh memory can cost more than the arithmetic in it.

    glibc hands large pieces back to the system when they are freed, and the system clears every page before it hands it
    out again. From now on pieces of up to 1 GiB stay with the process, up to 2 GiB at the end of its memory. Other C
    libraries are left as they are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    if not library.mallopt(_MMAP_THRESHOLD, _PIECE_BYTES):
        library.mallopt(_MMAP_THRESHOLD, _OLDER_PIECE_BYTES)
    library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
