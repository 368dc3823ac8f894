"""The island: the files that travel to the Hub with the weights."""

from subcell_hf.registration import add_models

add_models()
