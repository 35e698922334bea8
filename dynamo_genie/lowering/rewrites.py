"""Rewrites of ATen graphs, in the order in which they are done."""

from __future__ import annotations

from functools import partial

from dynamo_genie.lowering.arguments import is_supported
from dynamo_genie.lowering.decompositions import decomposition_table
from dynamo_genie.lowering.numbers import return_numbers_as_tensors
from dynamo_genie.passes.graphs.pipeline import Pass
from dynamo_genie.passes.rewrites.effects import drop_effect_tokens
from dynamo_genie.passes.rewrites.flex_attention import expand_flex_attention
from dynamo_genie.passes.rewrites.functionalized import call_on_copies
from dynamo_genie.passes.rewrites.inlining import inline_regions
from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.passes.rewrites.recomputation import keep_generator_states
from dynamo_genie.passes.rewrites.reinplace import reinplace

REWRITES = (
    Pass("effects", drop_effect_tokens),
    Pass("copies", partial(call_on_copies, runs=is_supported)),
    Pass("regions", inline_regions),
    Pass("flex_attention", partial(expand_flex_attention, decompositions=decomposition_table)),
    Pass("recomputation", keep_generator_states),
    Pass("portable", make_portable),
    Pass("numbers", return_numbers_as_tensors),
)
"""Done to every graph before anything is found out about it."""

LAYOUT_REWRITES = (Pass("reinplace", reinplace),)
"""Done to what runs as one Program, once it is understood: where its values lie, and when they are written."""
