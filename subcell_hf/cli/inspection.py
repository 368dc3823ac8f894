"""The result of `subcell inspect` as text for a terminal."""

from collections import Counter

from subcell_hf.errors import counted
from subcell_hf.workflows.inspect_images import InspectedField, Inspection, plate_map

_MOST_SHOWN = 5


def describe(found: Inspection) -> str:
    """The text that `subcell inspect` shows."""
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
    lines += _some("Problems", [f"- {problem}" for problem in found.problems])
    reasons = Counter(found.left_out.values())
    lines += _some("Left out", [f"- {counted(number, 'file')}: {reason}" for reason, number in reasons.most_common()])
    lines += ["", "To embed:", found.suggested_command]
    return "\n".join(lines)


def _maps(fields: tuple[InspectedField, ...]) -> list[str]:
    lines = []
    for plate, drawn in plate_map(fields).items():
        lines += ["", f"Fields per well of {plate or 'the plate'}:", drawn]
    return lines


def _some(title: str, items: list[str]) -> list[str]:
    if not items:
        return []
    more = [f"- and {len(items) - _MOST_SHOWN} more; --json lists all"] if len(items) > _MOST_SHOWN else []
    return ["", f"{title}:", *items[:_MOST_SHOWN], *more]
