"""Single cells in the files of other programs."""
