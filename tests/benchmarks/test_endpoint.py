"""The benchmark of the endpoint runs from end to end with few requests."""

import pytest

from tests.benchmarks.test_profiles_and_maps import run


@pytest.mark.slow
def test_endpoint() -> None:
    result = run("endpoint.py", "--clients", "8", "--requests", "2", "--rounds", "1", "--image_size", "32")
    assert result["name"] == "endpoint"
    assert result["figures"]["together_requests_per_s"] > 0
