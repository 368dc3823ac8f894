"""Cutting single cells out of fields of view, and the folder that keeps them."""
