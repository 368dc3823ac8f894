"""Parts of the HTML report of a run."""
