"""Bulk transfers: uploads, downloads, and tensors between workers."""
