"""HTML and SVG that cannot be broken by what they show: a template is markup, and what is filled in is escaped."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

_ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)


def fill(template: str, **values: object) -> Markup:
    """Return a template of jinja's with these values in it; those that are `Markup` themselves go in as they are."""
    return Markup(_compiled(template).render(values))


@cache
def _compiled(template: str) -> Template:
    return _ENVIRONMENT.from_string(template)
