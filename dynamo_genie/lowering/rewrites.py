"""Rewrites of ATen graphs, in the order in which they are done."""

from __future__ import annotations

from dynamo_genie.passes.graphs.pipeline import Pass
from dynamo_genie.passes.rewrites.effects import drop_effect_tokens
from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.passes.rewrites.reinplace import reinplace

REWRITES = (Pass("effects", drop_effect_tokens), Pass("portable", make_portable))
"""Done to every graph before anything is found out about it."""

LAYOUT_REWRITES = (Pass("reinplace", reinplace),)
"""Done to what runs as one Program, once it is understood: where its values lie, and when they are written."""
