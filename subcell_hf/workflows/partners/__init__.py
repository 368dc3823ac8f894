"""Embedding tables for other programs, with the images that they were made from."""
