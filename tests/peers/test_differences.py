"""The lists of what differs and of what does not apply are true."""

import unittest
from collections import Counter
from fnmatch import filter as matching

import pytest

from . import test_models, test_processor
from .differences import DIFFERENCES
from .not_applicable import NOT_APPLICABLE, is_not_applicable, missing_for

CASES = [
    case
    for module in (test_models, test_processor)
    for case in vars(module).values()
    if isinstance(case, type) and issubclass(case, unittest.TestCase)
]
TESTS = {case: list(unittest.defaultTestLoader.getTestCaseNames(case)) for case in CASES}
NAMES = [f"{case.__name__}::{test}" for case, tests in TESTS.items() for test in tests]


@pytest.mark.parametrize("pattern", [*DIFFERENCES, *(one for several in NOT_APPLICABLE.values() for one in several)])
def test_every_entry_names_a_test(pattern: str) -> None:
    assert matching(NAMES, pattern)


@pytest.mark.parametrize("case", CASES)
def test_transformers_skips_what_does_not_apply(case: type[unittest.TestCase]) -> None:
    tests = [test for test in TESTS[case] if is_not_applicable(case.__name__, test)]
    result = unittest.TestResult()
    unittest.TestSuite(map(case, tests)).run(result)
    assert not result.errors + result.failures
    assert {test.id().rpartition(".")[2].split()[0] for test, _ in result.skipped} == set(tests)


def test_nothing_is_missing_for_the_tests_of_transformers() -> None:
    reasons = Counter(
        missing
        for case, tests in TESTS.items()
        for test in tests
        if (missing := missing_for(case, test)) and not is_not_applicable(case.__name__, test)
    )
    if reasons:
        listed = ", ".join(f"{count} × {reason}" for reason, count in sorted(reasons.items()))
        pytest.skip(f"tests of transformers that were left out: {listed}")
