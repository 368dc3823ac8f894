"""Evaluation: embedding tables to benchmarks, perturbation profiles and proteome maps."""
