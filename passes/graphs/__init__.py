"""Graphs and the facts on their nodes: records, views, the pass pipeline and its invariants."""
