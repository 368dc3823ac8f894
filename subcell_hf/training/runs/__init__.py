"""A run's folder: checkpoints and records."""
