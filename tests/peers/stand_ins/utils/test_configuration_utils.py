"""In place of the module of this name, which transformers' source distribution leaves out."""

config_common_kwargs: dict[str, object] = {}
"""Not looked at: `ConfigTester` passes over configurations that hold another one, as ours may."""
