"""Embedding runs: blocks of cells are embedded in parts, which are joined to a table; resumable."""
