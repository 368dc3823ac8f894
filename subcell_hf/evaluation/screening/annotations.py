"""What is in the wells of a screen: treatments, doses, controls and mechanisms, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.benchmark import find_controls
from subcell_hf.evaluation.perturbation.table import ProfileTable
from subcell_hf.evaluation.screening.settings import DEFAULT_POSITIVE_CONTROLS, ScreenSettings
from subcell_hf.evaluation.screening.wells import PLATE, WELL, WellTable, find_column
from subcell_hf.storage.text_values import warn_of_case

Texts = npt.NDArray[np.object_]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Annotations:
    """What is known of each well.

    Attributes:
        plates: Plate (text), [wells].
        treatments: Treatment (text), None where there is none, [wells].
        doses: float64 [wells], NaN where there is none.
        control: Negative controls, bool [wells].
        positive: Positive controls, bool [wells].
        mechanism: Known mechanism of the treatment (text or None), [wells].
    """

    plates: Texts
    treatments: Texts
    doses: npt.NDArray[np.float64]
    control: Mask
    positive: Mask
    mechanism: Texts

    @property
    def treated(self) -> Mask:
        """Wells that are tested: those with a treatment that are no controls, bool [wells]."""
        named = np.array([name is not None for name in self.treatments], dtype=bool)
        return named & ~self.control & ~self.positive

    def groups(self) -> Texts:
        """The wells that should be alike: those of one dose of a treatment, or of the controls of a plate."""
        found = [
            f"control {plate}" if control else f"{treatment} {dose}"
            for plate, control, treatment, dose in zip(
                self.plates, self.control, self.treatments, self.doses, strict=True
            )
        ]
        return np.array(found, dtype=object)

    def mechanisms(self) -> dict[str, str]:
        """Treatment → its known mechanism.

        Raises:
            InputError: If wells of one treatment differ in it.
        """
        found: dict[str, str] = {}
        for name, mechanism in zip(self.treatments, self.mechanism, strict=True):
            if name is None or mechanism is None:
                continue
            if found.setdefault(str(name), str(mechanism)) != str(mechanism):
                raise InputError(
                    f"Wells of {name!r} have the mechanisms {found[str(name)]!r} and {mechanism!r}; a treatment has "
                    "one. Separate several with '|' in every well."
                )
        return found


def annotate(table: WellTable, settings: ScreenSettings) -> Annotations:
    """Find treatments, doses and controls of the wells.

    Args:
        table: Wells with what is known of them.
        settings: What the columns mean.

    Raises:
        InputError: If a column is missing, no well is a control, a dose is no number, or a well is both kinds of
            control.
    """
    profiles = table.profiles
    known = list(profiles.metadata.columns)
    treatment = find_column(known, settings.treatment_column)
    if treatment is None:
        raise InputError(
            f"There is no column {settings.treatment_column!r} of treatments in profiles or plate map; the columns are "
            f"{', '.join(known)}. Give --plate-map, or name the column (--treatment-column)."
        )
    treatments = profiles.column(treatment)
    warn_of_case(treatments, f"Column {treatment}")
    control = _controls(profiles, settings.controls, "--control", required=True)
    default = settings.positive_controls == DEFAULT_POSITIVE_CONTROLS
    positive = _controls(profiles, settings.positive_controls, "--positive-control", required=not default)
    if (both := np.flatnonzero(control & positive)).size:
        place = f"{profiles.column(PLATE)[both[0]]}/{profiles.column(WELL)[both[0]]}"
        raise InputError(f"Well {place} is a negative and a positive control, expected one. Correct the plate map.")
    doses = _doses(profiles, settings, known, ~control)
    mechanism = _optional(profiles, settings.mechanism_column, "mechanism", known)
    return Annotations(profiles.column(PLATE), treatments, doses, control, positive, mechanism)


def _controls(profiles: ProfileTable, pairs: Sequence[tuple[str, str]], option: str, *, required: bool) -> Mask:
    known = list(profiles.metadata.columns)
    found = [(find_column(known, column), value) for column, value in pairs]
    named = [(column, value) for column, value in found if column is not None]
    if not required:
        named = [(column, value) for column, value in named if value in set(profiles.column(column))]
        return find_controls(profiles, named)
    if len(named) < len(found) or not named:
        column = next((column for column, _ in pairs if find_column(known, column) is None), "")
        raise InputError(
            f"No column {column!r} marks controls; the columns are {', '.join(known)}. Name controls with "
            f"{option} COLUMN=VALUE, such as {option} treatment=DMSO."
        )
    return find_controls(profiles, named)


def _optional(profiles: ProfileTable, name: str, default: str, known: Sequence[str]) -> Texts:
    column = find_column(known, name)
    if column is not None:
        return profiles.column(column)
    if name != default:
        raise InputError(f"There is no column {name!r}; the columns are {', '.join(known)}.")
    return np.full(len(profiles), None, dtype=object)


def _doses(
    profiles: ProfileTable, settings: ScreenSettings, known: Sequence[str], wanted: Mask
) -> npt.NDArray[np.float64]:
    """Doses of the wells that are no negative controls; those of controls are not read."""
    texts = _optional(profiles, settings.dose_column, "dose", known)
    doses = np.full(len(profiles), np.nan)
    for row in np.flatnonzero(wanted):
        if texts[row] is None:
            continue
        try:
            doses[row] = float(texts[row])
        except ValueError:
            doses[row] = -1
        if not (np.isfinite(doses[row]) and doses[row] > 0):
            place = f"{profiles.column(PLATE)[row]}/{profiles.column(WELL)[row]}"
            raise InputError(
                f"The dose of well {place} is {texts[row]!r}, expected a number above 0 without its unit. Correct the "
                f"column {settings.dose_column!r}, or mark untreated wells as controls."
            )
    return doses
