"""The proteome map: cells to genes, genes to a graph, the graph to a hierarchy, the hierarchy to files."""
