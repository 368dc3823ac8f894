"""Monitoring of a run: terminal, page and experiment trackers."""
