import numpy as np
import pandas as pd
import pytest

from subcell_hf.errors import InputError
from subcell_hf.evaluation.perturbation.profile_comparison import compare_groups


def groups(scores: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"compound": [f"c{n}" for n in range(len(scores))], "mean_average_precision": scores})


def test_a_small_steady_difference_is_told_from_none() -> None:
    scores = np.random.default_rng(0).uniform(0.2, 0.8, size=40)
    noise = np.random.default_rng(1).normal(scale=0.02, size=40)
    better = compare_groups(groups(scores + 0.02 + noise), groups(scores), "baseline")
    assert better["verdict"] == "better"
    assert better["difference"] == pytest.approx(0.02 + noise.mean())
    assert better["difference_95"][0] < better["difference"] < better["difference_95"][1]
    assert compare_groups(groups(scores), groups(scores + 0.02 + noise), "baseline")["verdict"] == "worse"
    same = compare_groups(groups(scores), groups(scores + noise - noise.mean()), "baseline")
    assert same["verdict"] == "not better"
    assert "NOT shown to be better than baseline" in same["sentence"]


def test_only_groups_of_both_are_compared() -> None:
    ours, theirs = groups(np.array([0.5, 0.6, 0.9])), groups(np.array([0.4, 0.5]))
    assert compare_groups(ours, theirs, "x")["groups"] == 2
    theirs["compound"] = ["y", "z"]
    with pytest.raises(InputError, match="shares no group"):
        compare_groups(ours, theirs, "x")
