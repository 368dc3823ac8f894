"""Embedding tables in the formats of other programs, one file for each."""
