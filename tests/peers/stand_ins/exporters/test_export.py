"""In place of the module of this name, which transformers' source distribution leaves out."""


class ExportTesterMixin:
    """Nothing: tests/outside/test_tracing.py and test_ecosystem.py export our models."""
