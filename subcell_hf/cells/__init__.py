"""`FieldOfView` → masks → single-cell crops, with their quality."""
