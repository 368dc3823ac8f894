"""Tables of other programs: which images there are, and what is in the wells of their plates."""
