"""Sockets, keys and the pipe between supervisor and worker; imports no torch."""
