"""Resident weights: content digests, uploads, and what changed since."""
