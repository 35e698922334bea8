"""The study: what understanding the graph is worth, measured mode against mode on a real network."""
