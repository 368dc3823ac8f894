"""From a folder to its fields of view: which file is which channel of which field."""
