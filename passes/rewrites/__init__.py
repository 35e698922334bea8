"""Passes that rewrite a graph: portable operators, writes in place."""
