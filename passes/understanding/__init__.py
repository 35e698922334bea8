"""Analyses: attention, KV caches, roles, phases, cost and co-location groups."""
