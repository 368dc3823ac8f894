"""The folder of a run: checkpoints and records."""
