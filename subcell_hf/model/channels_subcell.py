"""Names of channels, and which planes of the data take the places of the model's channels."""

from collections.abc import Mapping, Sequence

ChannelMapping = Mapping[str, str | Sequence[str]]

__all__ = ["ChannelMapping", "check_names", "plan_passes", "require"]


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
