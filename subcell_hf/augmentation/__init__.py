"""Random views of cells, drawn in batches on the device."""
