"""Cutting a graph around what no daemon runs: those nodes run on the client, the rest stays remote."""
