"""Morphological profiles of wells: reading, aggregating, normalising, retrieving."""
