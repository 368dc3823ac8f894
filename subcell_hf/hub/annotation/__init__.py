"""The page on which people sort cells into classes, and the server behind it."""
