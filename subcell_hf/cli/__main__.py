"""`python -m subcell_hf.cli`."""

from subcell_hf.cli import app

app()
