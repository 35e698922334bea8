"""Weights that a daemon has in files."""
