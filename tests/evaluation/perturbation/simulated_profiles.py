"""Wells with planted perturbations, plate effects and controls."""

import numpy as np
import pandas as pd

from subcell_hf.evaluation.perturbation.table import ProfileTable


def simulate_wells(
    *, compounds: int = 12, mechanisms: int = 4, plates: int = 4, controls: int = 12, features: int = 40,
    effect: float = 2.0, plate_effect: float = 1.0, seed: int = 0,
) -> ProfileTable:  # fmt: skip
    """One well of each compound on every plate; compounds of one mechanism look alike but not the same."""
    generator = np.random.default_rng(seed)
    of_mechanism = effect * generator.normal(size=(mechanisms, features))
    of_compound = of_mechanism[np.arange(compounds) % mechanisms] + 0.5 * effect * generator.normal(
        size=(compounds, features)
    )
    rows, profiles = [], []
    for plate in range(plates):
        shift = plate_effect * generator.normal(size=features)
        scale = np.exp(0.3 * plate_effect * generator.normal(size=features))
        for well in range(compounds + controls):
            treated = well < compounds
            mean = of_compound[well] if treated else np.zeros(features)
            profiles.append((mean + generator.normal(size=features)) * scale + shift)
            rows.append(
                {
                    "Metadata_Plate": f"P{plate}",
                    "Metadata_Well": f"{well:03d}",
                    "Metadata_compound": f"compound {well}" if treated else None,
                    "Metadata_moa": f"mechanism {well % mechanisms}" if treated else None,
                    "Metadata_control_type": None if treated else "negcon",
                }
            )
    names = tuple(f"feature_{index}" for index in range(features))
    return ProfileTable(pd.DataFrame(rows, dtype=object).replace({np.nan: None}), np.array(profiles), names)


def write_wells(table: ProfileTable, path: str) -> None:
    """As pycytominer writes profiles."""
    features = pd.DataFrame(table.features, columns=list(table.names))
    pd.concat([table.metadata, features], axis=1).to_csv(path, index=False)
