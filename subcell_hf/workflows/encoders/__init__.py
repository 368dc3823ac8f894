"""Jobs with any encoders: several on the same cells, and what there is to choose from."""
