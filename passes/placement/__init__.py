"""Placement: from an annotated graph and a topology to a plan, and the split that follows it."""
