"""Pipelines: a graph in pieces of rows, laid out on devices that work on different pieces at the same time."""
