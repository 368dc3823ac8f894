import numpy as np
import pandas as pd
from copairs.map import average_precision, mean_average_precision
from scipy.stats import false_discovery_control

from subcell_hf.evaluation.perturbation.retrieval import RetrievalTask, retrieve_replicates
from subcell_hf.evaluation.perturbation.significance import score_groups
from tests.evaluation.perturbation.simulated_profiles import simulate_wells


def test_equals_copairs(tmp_path) -> None:
    wells = simulate_wells(controls=0, effect=0.3)
    task = RetrievalTask(
        wells.column("Metadata_compound"),
        wells.column("Metadata_Plate"),
        np.zeros(len(wells), bool),
        negatives="others",
    )
    ours = score_groups(retrieve_replicates(wells.features, task), "compound", null_size=2000, seed=3)
    precisions = average_precision(
        wells.metadata, wells.features, ["Metadata_compound"], [], [], ["Metadata_compound"], progress_bar=False
    )
    theirs = mean_average_precision(
        precisions,
        ["Metadata_compound"],
        null_size=2000,
        threshold=0.05,
        seed=3,
        progress_bar=False,
        cache_dir=tmp_path,
    ).sort_values("Metadata_compound")
    assert ours["compound"].tolist() == theirs["Metadata_compound"].tolist()
    for column in ("mean_average_precision", "mean_normalized_average_precision", "p_value", "corrected_p_value"):
        np.testing.assert_allclose(ours[column], theirs[column], atol=1e-12, err_msg=column)
    np.testing.assert_allclose(ours["corrected_p_value"], false_discovery_control(ours["p_value"]), atol=1e-12)


def test_a_seed_gives_the_same_values_whatever_was_asked_before() -> None:
    frame = pd.DataFrame(
        {
            "group": ["a", "a", "b"],
            "average_precision": [0.5, 0.4, np.nan],
            "interpolated_average_precision": [0.5, 0.5, np.nan],
            "n_pos_pairs": [1, 1, 0],
            "n_total_pairs": [9, 9, 8],
            "nearest_neighbour_accuracy": [1.0, np.nan, np.nan],
        }
    )
    first = score_groups(frame, "compound", null_size=500, seed=1)
    other = frame.assign(n_total_pairs=[9, 12, 8])
    score_groups(other, "compound", null_size=500, seed=1)
    pd.testing.assert_frame_equal(first, score_groups(frame, "compound", null_size=500, seed=1))
    assert first["compound"].tolist() == ["a"]  # a query without positives is no evidence
    assert first["nearest_neighbour_accuracy"].tolist() == [1.0]
