"""Pretraining from shards."""
