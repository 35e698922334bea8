"""Protocol versions and how two sides agree on one."""

PROTOCOLS: tuple[int, ...] = (5,)
"""Versions that this release speaks, newest last."""


def negotiate(offered: tuple[int, ...], known: tuple[int, ...] = PROTOCOLS) -> int | None:
    """Return the newest version both sides speak, or None when they share none."""
    return max(set(offered) & set(known), default=None)
