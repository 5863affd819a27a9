"""Modules of torch: layers, networks, and the grids, nodes and edges that they are made of."""
