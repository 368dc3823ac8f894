"""The Hub on this machine, as for the tests of the room hub."""

from tests.hub.conftest import hub

__all__ = ["hub"]
