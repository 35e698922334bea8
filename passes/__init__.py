"""Understands captured graphs: what every tensor is and what must be rewritten. Pure; no sockets."""
