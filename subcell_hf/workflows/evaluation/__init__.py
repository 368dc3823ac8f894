"""Benchmarks of embedding tables as functions: tables in, folders of results out."""
