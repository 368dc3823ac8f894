"""What others bring: files, tables, scripts and habits that public bug reports tell of."""
