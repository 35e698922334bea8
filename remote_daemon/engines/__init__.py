"""Engines turn a Program into something callable on the worker's device."""
