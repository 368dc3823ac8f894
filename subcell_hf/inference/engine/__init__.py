"""Blocks of cells → parts of a table → the table, resumable."""
