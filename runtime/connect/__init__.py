"""Connecting: admission by a supervisor, leases, keys, sockets, and the embedded daemon."""
