"""Pages of one HTML file each: one way of filling templates, one theme, one map of points."""
