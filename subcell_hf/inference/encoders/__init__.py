"""Encoders other than SubCell: what they are, where they are found, and how cells are prepared for them."""
