"""One file → an array, with what the file says of it."""
