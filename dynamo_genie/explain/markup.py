"""HTML and SVG that cannot be broken by what they show: everything is escaped unless it was made here."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: object, **attributes: object) -> Markup:
    """Return `<name attributes>children</name>`; in attribute names, `_` stands for `-` and a last one for nothing."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Return children one after the other, escaped where they are plain text."""
    return Markup("".join(child if isinstance(child, Markup) else escape(str(child)) for child in children))
