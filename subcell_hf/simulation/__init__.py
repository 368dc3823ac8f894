"""Simulated cells with known localization."""
