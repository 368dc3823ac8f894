"""Marks of transformers' tests, and the tests that are meant to fail."""

import pytest

from .differences import reason_for

MARKS = (
    "accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test", "order",
    "is_training_test",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known that transformers' tests carry."""
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: transformers' own")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect what is meant to differ to fail; if it passes, that is an error."""
    for item in items:
        case = item.getparent(pytest.Class)
        reason = reason_for(case.name, item.name) if case is not None and "peers" in item.path.parts else None
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
