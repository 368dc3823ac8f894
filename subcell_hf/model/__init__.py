"""The island: the files that travel to the Hub with the weights."""

# Importing the Auto classes registers ours (subcell_hf/registration.py), which imports every file of this folder: that
# must happen before one of them is half imported.
import transformers.models.auto as auto

__all__ = ["auto"]
