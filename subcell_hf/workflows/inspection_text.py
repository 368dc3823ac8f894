"""The result of `subcell inspect` as text for a terminal."""

import re
from collections import Counter
from collections.abc import Iterable

from subcell_hf.errors import counted
from subcell_hf.workflows.inspect_images import InspectedField, Inspection, plate_map

_MOST_SHOWN = 5
_OF_FIELD = re.compile(r"Field (?P<name>'.+?'|\".+?\"): (?P<what>.+)", re.DOTALL)


def describe_inspection(found: Inspection) -> str:
    """The text that `subcell inspect` shows.

    Args:
        found: What `inspect_images` found.
    """
    fields = found.fields
    lines = [
        f"Layout:      {found.layout} ({found.recognised_by})",
        f"Fields:      {counted(len(fields), 'field')} of view, {found.usable} usable",
    ]
    plates = sorted({field.plate for field in fields if field.plate})
    wells = {(field.plate, field.well) for field in fields if field.well}
    if wells:
        sites = Counter(Counter((field.plate, field.well) for field in fields).values())
        of_well = ", ".join(f"{number} in {counted(wells, 'well')}" for number, wells in sorted(sites.items()))
        on = f"{counted(len(plates), 'plate')} ({', '.join(plates)})" if plates else "a plate that has no name"
        lines.append(f"Wells:       {len(wells)} on {on}")
        lines.append(f"Sites:       {of_well}")
    for channels, number in Counter(field.channels for field in fields).most_common():
        lines.append(f"Channels:    {', '.join(channels) or 'not named'} ({counted(number, 'field')})")
    for (size_um, source), number in Counter((f.pixel_size_um, f.pixel_size_source) for f in fields).most_common():
        said = f"{size_um:g} um, from {source}" if size_um is not None else "unknown"
        lines.append(f"Pixel size:  {said} ({counted(number, 'field')})")
    z_planes = sorted({field.z_planes for field in fields})
    if z_planes != [1]:
        lines.append(f"Z-planes:    {', '.join(map(str, z_planes))}")
    lines += _maps(fields)
    lines += _some("Problems", _gathered(found.problems))
    reasons = Counter(found.left_out.values())
    lines += _some("Left out", [f"- {counted(number, 'file')}: {reason}" for reason, number in reasons.most_common()])
    lines += ["", "To embed:", found.suggested_command]
    return "\n".join(lines)


def _gathered(problems: Iterable[str]) -> list[str]:
    """What several fields have alike is said once, with their number."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        found = _OF_FIELD.fullmatch(problem)
        alike.setdefault(found["what"] if found else "", []).append(problem)
    of_fields = [
        f"- {len(same)} fields: {what} The first is {_name_in(same[0])}." if len(same) > 1 else f"- {same[0]}"
        for what, same in alike.items()
        if what
    ]
    return [*of_fields, *(f"- {problem}" for problem in alike.get("", ()))]


def _name_in(problem: str) -> str:
    found = _OF_FIELD.fullmatch(problem)
    return found["name"] if found else ""


def _maps(fields: tuple[InspectedField, ...]) -> list[str]:
    lines = []
    maps = plate_map(fields)
    for plate, drawn in list(maps.items())[:_MOST_SHOWN]:
        lines += ["", f"Fields per well of {plate or 'the plate'}:", drawn]
    more = ["", f"Wells of {len(maps) - _MOST_SHOWN} more plates: see --json"] if len(maps) > _MOST_SHOWN else []
    return [*lines, *more]


def _some(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = [f"- and {len(items) - _MOST_SHOWN} more; --json lists all"] if len(items) > _MOST_SHOWN else []
    return ["", f"{title}:", *items[:_MOST_SHOWN], *more]
