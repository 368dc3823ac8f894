"""The list of differences names tests that exist."""

import unittest
from fnmatch import filter as matching

import pytest

from . import test_models, test_processor
from .differences import DIFFERENCES

CASES = [
    case
    for module in (test_models, test_processor)
    for case in vars(module).values()
    if isinstance(case, type) and issubclass(case, unittest.TestCase)
]
TESTS = [f"{case.__name__}::{name}" for case in CASES for name in unittest.defaultTestLoader.getTestCaseNames(case)]


@pytest.mark.parametrize("pattern", DIFFERENCES)
def test_every_entry_names_a_test(pattern: str) -> None:
    assert matching(TESTS, pattern)
