"""What a file's name says: field and channel, the Human Protein Atlas's own names, other programs' outputs."""

import re
import unicodedata
from collections.abc import Mapping

from subcell_hf.images.decoders.unread_formats import UNREAD_SUFFIXES
from subcell_hf.images.files import Named, image_suffix, longest_suffix
from subcell_hf.images.wells import standard_well
from subcell_hf.ontology import CHANNEL_STAINS

MASK_NAME = "mask"
CELLPOSE_MASKS = "cp_masks"

_UNREAD = frozenset(UNREAD_SUFFIXES)
_HPA_FIELD = re.compile(r"\d+_[A-H]\d\d?_\d+")
_PLATE_WELL_SAMPLE = re.compile(r"(?P<plate>.+)_(?P<well>[^_]+)_(?P<sample>[^_]+)")
_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_THUMBNAIL = re.compile(rf"(?:^|[^a-z])thumb(?:nail)?s?(?:$|[^a-z]|{_UUID})", re.IGNORECASE)
_SYSTEM_NAMES = frozenset({"@eadir", "@recycle", "#recycle", "#snapshot", "__macosx", "$recycle.bin", "lost+found"})

# Cellpose names its files after the image: https://cellpose.readthedocs.io/en/latest/outputs.html
_CELLPOSE_OTHERS = re.compile(
    r"(?P<image>.+?)_(?:(?:flows|outlines|dP|cellprob)(?:_cp_masks)?|cp_output|cp_outlines)", re.IGNORECASE
)
_CELLPOSE_MASKS_OF = re.compile(rf"(?P<image>.+)_{CELLPOSE_MASKS}", re.IGNORECASE)
_CELLPOSE_ARCHIVE = re.compile(r"(?P<image>.+)_seg", re.IGNORECASE)
_LIKE_A_MASK = re.compile(
    r"(?P<image>.+?)[ _.-]+(?:(?:whole|cells?|nuclei|nucleus|nuclear|nuc|cyto|instances?)[ _-]*)*"
    r"(?:masks?|labels?|lbl|seg|segmentation|segmented|simple segmentation|object predictions)",
    re.IGNORECASE,
)
MICRO_MANAGER_STEM = re.compile(r"img_\d{9}_.*_\d{3}|img(?:_(?:channel|position|time|z)\d{3,9})+")
"""Names of separate images: time, channel and Z-plane in version 1.4, indices with their axes in version 2."""

_LAYOUTS = {
    "Phenix and Operetta": (
        "Index.idx.xml", re.compile(r"r\d+c\d+f\d+p\d+(?:rc\d+)?-ch\d+(?:sk\d+|fk\d+|fl\d+)*|\d{6}-\d+-\d{9}")
    ),
    "ImageXpress": ("the .HTD", re.compile(r".*[A-P]\d\d_s\d+_w\d[0-9A-F-]*")),
    "ImageXpress HCS.ai": ("the .jdce", re.compile(r".*_t\d+_[A-P]\d\d_s\d+_w\d+_z\d+")),
    "CellVoyager": (
        "MeasurementData.mlf and MeasurementDetail.mrf",
        re.compile(r".*T\d{4}F\d{3}L\d\dA\d\dZ\d\dC\d\d|W\d{4}F\d{4}T\d{4}Z\d{3}C\d+|[DS]C_.+_(?:CAM|CH)\d+"),
    ),
    "IN Cell": ("the .xdce", re.compile(r".*\(fld \d+ wv .+\)")),
    "scanR": ("metadata.ome.xml", re.compile(r"[A-Z]{1,2}\d+--W\d+--P\d+--Z\d+--T\d+--.+")),
    "Micro-Manager": ("metadata.txt", MICRO_MANAGER_STEM),
}  # fmt: skip


def normal_form(text: str) -> str:
    """Text as it is compared: macOS writes an accent as a separate sign, other systems as part of the letter."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def legible(text: str) -> str:
    r"""A name with the bytes that are no UTF-8 written out, such as `caf\xe9`; other names as they are."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_system_file(name: str) -> bool:
    """Whether a file or folder is an operating system's own: hidden, or a thumbnail, recycling or snapshot folder."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_thumbnail(name: str) -> bool:
    """Whether a file's name says that it is a small copy of another image."""
    return "thumb" in name.lower() and _THUMBNAIL.search(name) is not None


def other_image_suffix(file: Named) -> str | None:
    """The ending of a kind of images that is not read; None for images that are, and for any other file."""
    if image_suffix(file) is not None:
        return None
    return longest_suffix(file.name.lower().removesuffix(".gz"), _UNREAD)


def image_stem(file: Named) -> str:
    """An image's name without what marks it as an image."""
    suffix = image_suffix(file) or other_image_suffix(file) or ""
    name = file.name.removesuffix(".gz") if not file.name.lower().endswith(suffix) else file.name
    return normal_form(name[: len(name) - len(suffix)])


def split_stem(stem: str, known: Mapping[str, str]) -> tuple[str, str | None]:
    """`800_A6_1_green` → `("800_A6_1", "green")`; None for the channel where the name ends in none.

    Args:
        stem: See `image_stem`.
        known: Names of channels in file names → our names; found in any case where none fits as it is.
    """
    name, _, last = stem.rpartition("_")
    if not name:
        return stem, None
    if last.lower() == MASK_NAME:
        return name, MASK_NAME
    channel = known.get(last) or next((known[name] for name in known if name.lower() == last.lower()), None)
    return (name, channel) if channel else (stem, None)


def plate_well_sample(field_name: str) -> dict[str, str]:
    """The parts of `<plate>_<well>_<sample>`, the well as `A01`; nothing where the name has other parts."""
    match = _PLATE_WELL_SAMPLE.fullmatch(field_name)
    return {**match.groupdict(), "well": standard_well(match["well"])} if match else {}


def is_named_by_hpa(file: Named) -> bool:
    """Whether a file is named as the Human Protein Atlas names its own: `<number>_<well>_<number>_<colour>`."""
    field_name, _, colour = image_stem(file).rpartition("_")
    return colour in CHANNEL_STAINS and _HPA_FIELD.fullmatch(field_name) is not None


def companion_of(file: Named) -> tuple[str, str] | None:
    """Of which image a file is an output of a segmentation program, and why it is not used as it is.

    Args:
        file: An image file whose name does not end in a channel.

    Returns:
        Stem of the image, and the reason; the reason is `CELLPOSE_MASKS` for Cellpose's label masks, which can be used;
        None where the name is none of such an output.
    """
    stem = image_stem(file)
    if file.name.lower().endswith("_seg.npy") and (match := _CELLPOSE_ARCHIVE.fullmatch(stem)):
        reason = (
            "Cellpose's archive of masks and flows, which is not read: have Cellpose save the masks as TIFF "
            "(--save_tif), which gives <image>_cp_masks.tif"
        )
    elif match := _CELLPOSE_OTHERS.fullmatch(stem):
        reason = "an output of Cellpose that is no label mask"
    elif match := _CELLPOSE_MASKS_OF.fullmatch(stem):
        reason = CELLPOSE_MASKS
    elif match := _LIKE_A_MASK.fullmatch(stem):
        reason = (
            "named like a label mask, but only <field of view>_mask is used as one: if it labels whole cells, rename it"
        )
    else:
        return None
    return match["image"].removesuffix(".ome"), reason


def layout_of(file: Named) -> tuple[str, str] | None:
    """Microscope whose layout of files a name follows, and the index that belongs to it; None for other names."""
    for microscope, (index, pattern) in _LAYOUTS.items():
        if pattern.fullmatch(image_stem(file)):
            return microscope, index
    return None
