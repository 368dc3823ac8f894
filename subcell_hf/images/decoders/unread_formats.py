"""Kinds of image files that are not read: what writes them, and how to convert them."""

from collections.abc import Mapping

_CONVERT = (
    "convert it to OME-Zarr with bioformats2raw (https://github.com/glencoesoftware/bioformats2raw), or save it as "
    "OME-TIFF in the microscope's program"
)
_PLAIN = "save it as TIFF or PNG"
_MICROSCOPES = {
    "Olympus and Evident, cellSens and FluoView": (".vsi", ".oir", ".oif", ".oib"),
    "Leica LAS X": (".lof",),
    "Zeiss AxioVision and LSM": (".zvi", ".lsm"),
    "DeltaVision": (".dv", ".r3d"),
    "Imaris": (".ims",),
    "Opera and Columbus": (".flex",),
    "Cellomics ArrayScan": (".c01", ".dib"),
    "MetaMorph": (".stk",),
    "SlideBook": (".sld", ".sldy"),
    "Volocity": (".mvd2",),
    "slide scanners": (".bif", ".mrxs", ".ndpi", ".qptiff", ".scn", ".svs"),
    "electron microscopes": (".mrc",),
}
_OTHERS = (
    ".avif", ".bmp", ".dcm", ".gif", ".heic", ".ics", ".ids", ".jfif", ".jp2", ".jpe", ".jxl", ".mha", ".nii", ".nrrd",
    ".pgm", ".pnm", ".ppm", ".tga", ".webp",
)  # fmt: skip

UNREAD_SUFFIXES: Mapping[str, str] = {
    **{
        suffix: f"files are not read ({program}): {_CONVERT}"
        for program, suffixes in _MICROSCOPES.items()
        for suffix in suffixes
    },
    **dict.fromkeys(_OTHERS, f"files are not read: {_PLAIN}"),
    ".zarr.zip": "files are not read among other images: give it by itself, or unpack it",
}
"""Ending of an image file that is not read → why, and what to do, after the ending itself."""

_ARCHIVE = "is an archive: give it by itself, or unpack it, and give the folder"
_BESIDE: Mapping[str, str] = {
    ".xlef": "is an index of Leica's (LAS X) for .lof files, which are not read: save the project as one .lif file",
    ".xlif": "is an index of Leica's (LAS X) for .lof files, which are not read: save the project as one .lif file",
    ".ets": f"is a part of a .vsi of Olympus (cellSens), which is not read: {_CONVERT}",
    ".nd": "is an index of MetaMorph's: give the folder of its TIFF files",
    ".index": "is an index of Micro-Manager's NDTiff, which is not read: save the data as OME-TIFF in Micro-Manager",
    ".h5": "is HDF5, of which the layout is not known: save the images as OME-TIFF or OME-Zarr",
    ".hdf5": "is HDF5, of which the layout is not known: save the images as OME-TIFF or OME-Zarr",
    ".zip": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".tar.gz": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".7z": "is an archive: unpack it, and give the folder",
}
"""Files that are no images themselves, but that a user may give, or have alone."""


def why_unread(name: str) -> str | None:
    """What a file is that is not read, and what to do with it; None where it is nothing that is known.

    Args:
        name: Of the file.
    """
    name = name.lower()
    for suffix, reason in UNREAD_SUFFIXES.items():
        if name.endswith(suffix):
            return f"{suffix} {reason}"
    return next((f"it {reason}" for suffix, reason in _BESIDE.items() if name.endswith(suffix)), None)
