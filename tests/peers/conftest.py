"""Marks of transformers' tests, and the tests that are meant to fail."""

import pytest
from _pytest.unittest import TestCaseFunction

from .differences import reason_for
from .not_applicable import is_not_applicable, missing_for

MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test", "order",
    "is_training_test",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known that transformers' tests carry."""
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: transformers' own")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what transformers would skip; what is meant to differ must fail."""
    left_out = [item for item in items if _is_left_out(item)]
    items[:] = [item for item in items if not _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    for item in items:
        case = item.getparent(pytest.Class)
        reason = reason_for(case.name, item.name) if case is not None and "peers" in item.path.parts else None
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, TestCaseFunction) or "peers" not in item.path.parts:
        return False
    return is_not_applicable(item.cls.__name__, item.name) or missing_for(item.cls, item.name) is not None
