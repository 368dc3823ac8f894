"""Names of channels, and which planes of the data take the places of the model's channels."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

ChannelMapping = Mapping[str, str | Sequence[str]]

__all__ = [
    "LARGEST_CHANNELS", "OTHER", "PROTEIN", "ChannelMapping", "channel_passes", "channel_row", "check_names",
    "choose_channels", "find_rows", "plan_passes", "require",
]  # fmt: skip

LARGEST_CHANNELS = 8
"""Most channels of an image for a model with separate channel tokens."""

PROTEIN = "protein"
"""General name of the channel of a protein, whatever the model calls its own."""

OTHER = "other"
"""General name of a stain that the model was not trained on; further ones are `other_2`, `other_3`, …"""


def plan_passes(channels: Sequence[str], mapping: ChannelMapping | None) -> tuple[list[list[str]], bool]:
    """Which planes of the data take the places of the model's channels.

    Args:
        channels: The model's channels, in order.
        mapping: Channel → name of the plane in the data; for one channel it may be a list of names.

    Returns:
        One list of plane names per pass, and whether a list of names asked for several passes.

    Raises:
        ValueError: If the mapping names channels that the model lacks, or lists for more than one channel.
    """
    mapping = mapping or {}
    sound = set(mapping) <= set(channels)
    require(sound, f"channel_mapping maps {', '.join(mapping)}; the model's channels are {', '.join(channels)}.")
    listed = [channel for channel, names in mapping.items() if not isinstance(names, str)]
    if not listed:
        return [[str(mapping.get(channel, channel)) for channel in channels]], False
    sound = len(listed) == 1 and len(mapping[listed[0]]) > 0
    require(sound, f"channel_mapping lists names for {', '.join(listed)}; expected a filled list for one at most.")
    return [plan_passes(channels, {**mapping, listed[0]: name})[0][0] for name in mapping[listed[0]]], True


def require(condition: bool, message: str) -> None:
    """Raise ValueError with a message unless a condition holds."""
    if not condition:
        raise ValueError(message)


def check_names(names: Sequence[str]) -> list[str]:
    """Names of channels as a list; raises ValueError if they are none, or not different."""
    checked = [names] if isinstance(names, str) else list(names)
    sound = all(isinstance(name, str) and name for name in checked) and len(set(checked)) == len(checked) > 0
    require(sound, f"channels={names!r}; expected names such as 'green', at least one, without repetition.")
    return checked


def channel_row(name: str, channels: Sequence[str]) -> int | None:
    """The channel embedding of a name, in a model with separate channel tokens.

    Args:
        name: Of a channel: one of the model's; `protein`, the model's last; or `other`, any other stain. Further ones
            of these two have a number, such as `other_2`.
        channels: Those that the model was trained on, the protein last.

    Returns:
        Its row: the position in `channels`, or their number for `other`; None for an unknown name.
    """
    if name in channels:
        return list(channels).index(name)
    general, separator, number = name.partition("_")
    if general not in (PROTEIN, OTHER) or (separator and not number.isdigit()):
        return None
    return len(channels) - 1 if general == PROTEIN else len(channels)


def find_rows(names: Sequence[str], channels: Sequence[str]) -> list[int]:
    """The row of every channel of an image, see `channel_row`.

    Raises:
        ValueError: If there are no names, more than `LARGEST_CHANNELS`, repeated or unknown ones.
    """
    checked = check_names(names)
    count, most = len(checked), LARGEST_CHANNELS
    require(count <= most, f"channels are {', '.join(checked)}, {count} in number; the model takes at most {most}.")
    rows = [channel_row(name, channels) for name in checked]
    unknown = [name for name, row in zip(checked, rows, strict=True) if row is None]
    if unknown:
        raise ValueError(
            f"The model was trained on {', '.join(channels)}, not on {', '.join(unknown)}. Name a stain that it does "
            f"not know {OTHER!r} (a second one '{OTHER}_2', …) and a protein {PROTEIN!r}, or leave the plane out. The "
            f"image processor renames planes: channel_mapping={{{OTHER!r}: {unknown[0]!r}}}."
        )
    return [row for row in rows if row is not None]


def choose_channels(channels: Sequence[str], present: Collection[str], mapping: ChannelMapping | None) -> list[str]:
    """Which channels an image has for a model with separate channel tokens.

    Args:
        channels: Those that the model was trained on, the protein last.
        present: Names of the image's planes.
        mapping: The model's name of a channel → name of the plane; for one channel it may be a list of names.

    Returns:
        The model's names of the image's channels: stains, others, the protein last.

    Raises:
        ValueError: If a plane's name is unknown and not mapped, the mapping names a plane that is not there, or there
            are no channels or too many.
    """
    mapping = mapping or {}
    taken = [plane for names in mapping.values() for plane in ([names] if isinstance(names, str) else names)]
    missing = [plane for plane in taken if plane not in present]
    found = f"the image has {', '.join(present) or 'none'}"
    require(not missing, f"channel_mapping names the planes {', '.join(missing)}; {found}.")
    names = [*mapping, *(plane for plane in present if plane not in taken and plane not in mapping)]
    rows = dict(zip(names, find_rows(names, channels), strict=True))
    protein = len(channels) - 1
    return sorted(names, key=lambda name: (rows[name] == protein, rows[name], name))


def channel_passes(names: Sequence[str], rows: Sequence[int], protein: int, limit: int | None) -> list[list[int]]:
    """Which channels attend together if no more than `limit` do; the order of the channels does not matter.

    Args:
        names: Of the image's channels.
        rows: Of the same, see `channel_row`.
        protein: The protein's row.
        limit: Most channels of a pass; None for all.

    Returns:
        Positions of the channels of every pass, the protein in the first; every channel is in one, and no pass has two
        more than another.
    """
    if limit is None or len(names) <= limit:
        return [list(range(len(names)))]
    ordered = sorted(range(len(names)), key=lambda at: (rows[at] != protein, rows[at], names[at]))
    count = -(-len(names) // limit)
    edges = [-(-len(names) * number // count) for number in range(count + 1)]
    return [ordered[start:stop] for start, stop in pairwise(edges)]
