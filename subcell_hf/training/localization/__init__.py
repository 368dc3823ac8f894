"""Classifiers of protein locations on frozen embeddings."""
