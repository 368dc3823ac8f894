"""Inference: images and crops to embedding tables, locations and a report."""
