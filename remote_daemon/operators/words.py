"""The words that choose what an operator does, told apart from text for people, which no compiler may see.

Compilers write what is in a graph into source text, and not all of them escape it. What a client may choose of a
graph's text is therefore a closed set of words; anything else is a message, and a name of ours stands in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dynamo_genie.runtime.wire import program as p

WORDS = frozenset(
    "none tanh trunc floor "  # approximate, rounding_mode
    "sum prod mean amax amin max min add multiply "  # reduce
    "left right L U l u reduced complete r "  # side, UPLO, mode
    "gesvd gesvdj gesvda gels gelsy gelsd gelss".split()  # driver
)
"""All words by which PyTorch's own operators of the table let something be chosen."""

ASSERTIONS = frozenset(
    (
        "aten._assert_async.msg", "aten._functional_assert_async.msg", "aten._assert_scalar.default",
        "aten._functional_assert_scalar.default",
    )
)  # fmt: skip
"""The operators that fail with a message of the client's, and nothing else."""

_NAME = "genie_text_of_node_{}"
_NAMES = re.compile(r"genie_text_of_node_(\d{1,9})")


def text_for_compilers(text: str, node: int) -> str:
    """Return `text` if it chooses something, else the name that stands for the text of this node."""
    return text if text in WORDS else _NAME.format(node)


def with_own_text(program: p.Program, message: str) -> tuple[int, str] | None:
    """Find the node whose text a message of compiled code names; return its number and the message with that text."""
    found = _NAMES.search(message)
    if found is None or int(found[1]) >= len(program.nodes):
        return None
    number = int(found[1])
    own = next((text for text in _texts(program.nodes[number]) if text not in WORDS), None)
    return None if own is None else (number, message.replace(found[0], own))


def _texts(node: p.Node) -> Iterator[str]:
    waiting = [*node.args, *(argument for _, argument in node.kwargs)]
    for argument in waiting:
        if isinstance(argument, str):
            yield argument
        elif isinstance(argument, p.Items):
            waiting += argument.items
