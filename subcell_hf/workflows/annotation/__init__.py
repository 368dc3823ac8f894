"""Workflow of annotation: a table and a file of labels → a page, results and a classifier."""
