"""Rows of a graph: along which dimension each value is row-wise, and the graph in pieces of rows. No devices."""
