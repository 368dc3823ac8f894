"""What is said of a screen in words: warnings, and methods to paste into a manuscript."""

from collections.abc import Sequence

from subcell_hf.errors import counted
from subcell_hf.evaluation.screening.screen import ScreenResult

_MOST = 8


def warnings_of(result: ScreenResult) -> list[str]:
    """Sentences that name what needs attention: plates, controls, wells, positions."""
    summary, found = result.summary, []
    repeat = [f"{row.plate} ({row.repeat})" for row in result.plates.itertuples() if row.repeat]
    if repeat:
        found.append(f"{counted(len(repeat), 'plate')} to repeat: {_some(repeat)}.")
    failed = summary["failed_controls"]
    if failed:
        said = counted(len(failed), "negative control is", "negative controls are")
        found.append(f"{said} unlike the others and not compared with: {_some(failed)}.")
    few = summary["wells_with_few_cells"]
    if few:
        said = counted(len(few), "well has", "wells have")
        found.append(f"{said} fewer than {counted(summary['min_cells'], 'cell')}: {_some(few)}.")
    effects = [test.effect for test in result.positions if test.p_value <= summary["level"]]
    if effects and not summary["position_corrected"]:
        found.append(
            f"Profiles depend on the place on the plate ({', '.join(effects)}). Where a treatment has the same place "
            "on every plate, this can look like its effect: use --correct-position."
        )
    few_ways = [str(name) for name in result.hits.loc[result.hits["least_p_value"] > summary["level"], "treatment"]]
    if few_ways:
        said = counted(len(few_ways), "treatment has", "treatments have")
        found.append(f"{said} too few wells and controls to be significant in any case: {_some(few_ways)}.")
    if not summary["counts_known"]:
        found.append("Numbers of cells are unknown: effects that they explain cannot be recognised.")
    return found


def left_out_sentences(result: ScreenResult, file: str) -> list[str]:
    """Which wells took no part.

    Args:
        result: Of `evaluate_screen`.
        file: Where they are listed.
    """
    left_out = result.summary["left_out"]
    if not left_out:
        return []
    reasons = "; ".join(f"{count}: {reason}" for reason, count in left_out.items())
    total = counted(sum(left_out.values()), "well was", "wells were")
    return [f"{total} left out ({reasons}), listed in {file}."]


def methods_text(result: ScreenResult) -> str:
    """Methods of this analysis, to paste into a manuscript."""
    summary = result.summary
    steps = summary["steps"]
    normal = {
        "none": "were not normalised",
        "standardize": f"were standardised on each plate ({steps.get('reference', 'all')} wells)",
        "robust": f"were scaled on each plate to median 0 and scaled median absolute deviation 1 "
        f"({steps.get('reference', 'all')} wells)",
    }[steps["normalization"]]
    cells = "Embeddings of cells were averaged to wells. " if summary["rows_are_cells"] else ""
    sphering = "" if steps["sphering"] == "none" else f" and sphered by half of the controls ({steps['sphering']})"
    position = ""
    if summary["position_corrected"]:
        position = (
            " Effects of outer wells and quadratic trends over rows and columns were fitted on each plate by robust "
            "regression on all wells, and subtracted."
        )
    counts = ""
    if summary["counts_known"]:
        counts = (
            " What the number of cells explains was fitted on all wells by robust regression on a cubic polynomial "
            "of the log ratio to the controls, and subtracted for a second test; a treatment was called active if the "
            "larger of both p-values passed."
        )
    others = "other wells"
    if summary["plates"] > 1:
        others = "wells on other plates (its other wells where it is on one plate alone)"
    return (
        f"{cells}Profiles of {counted(summary['wells'], 'well')} on {counted(summary['plates'], 'plate')} "
        f"({summary['features_compared']} "
        f"features) {normal}{sphering}.{position} Activity of a treatment is the mean average precision with which its "
        "wells retrieve each other among the negative controls of their plates by cosine similarity (Kalinin et al. "
        "2024). p-values are from permutations of treated and control labels within plates (at most "
        f"{summary['permutations']}, the observed labels included), corrected by Benjamini and Hochberg; the false "
        f"discovery rate is {summary['level']:g}.{counts} Effects are projections on the direction given by the "
        f"treatment's {others}, in standard deviations of controls, with jackknife intervals. Dose "
        "responses are four-parameter logistic fits; intervals of EC50 are 95 % profile likelihood, and EC50 is "
        "reported where the interval lies within the tested doses. Negative controls at an unusual distance from the "
        "median control "
        f"({len(summary['failed_controls'])}) were excluded. subcell_hf, seed {summary['seed']}."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
