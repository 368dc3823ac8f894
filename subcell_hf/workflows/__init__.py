"""Every job as a function: what the command line, the recipes and a notebook call."""
