"""The benchmark of localization metrics runs from end to end on few cells."""

import pytest

from tests.benchmarks.test_profiles_and_maps import run


@pytest.mark.slow
def test_localization_metrics() -> None:
    sizes = ("--cells", "3000", "--width", "16", "--antibodies", "60", "--resamples", "20")
    result = run("evaluation.py", "--part", "localization", *sizes)
    low, high = result["figures"]["macro_map_95"]
    assert low < result["figures"]["macro_map"] < high
    assert result["figures"]["antibodies"] == 60
