"""Pipelines measured: one call shared out over two daemons, against the same call on one."""
