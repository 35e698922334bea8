"""Elements that stand for those of a tensor nobody has seen yet, so that they can be packed and counted."""

from __future__ import annotations

import random
import zlib

from dynamo_genie.explain.expected_call import Content, LocalTensor
from dynamo_genie.runtime.session.session import PACK_AT_NBYTES

_SEED = 0x6E1E

PACKABLE_ITEMSIZES = {"int64": 8, "int32": 4, "bool": 1, "uint8": 1}
"""The dtypes that `Session.inline` compresses, with the size of an element."""


def inline_data(tensor: LocalTensor, nbytes: int) -> tuple[bytes, bool]:
    """Return data as long as what `Session.inline` would send, and whether it would be packed."""
    itemsize = PACKABLE_ITEMSIZES.get(tensor.dtype)
    if itemsize is None or nbytes < PACK_AT_NBYTES:
        return bytes(nbytes), False
    small = zlib.compress(_elements(tensor, nbytes // itemsize, itemsize), 1)
    return (small, True) if len(small) < nbytes // 2 else (bytes(nbytes), False)


def _elements(tensor: LocalTensor, count: int, itemsize: int) -> bytes:
    if tensor.content is Content.CONSTANT:
        return (1).to_bytes(itemsize, "little") * count
    limit = 1 << (8 * itemsize - 1)
    if tensor.content is Content.COUNTING:
        row = tensor.shape[-1] if tensor.shape else 1
        numbers = [i % max(row, 1) % limit for i in range(count)]
    else:
        draw = random.Random(_SEED)  # our own: the program's generators stay as they are
        numbers = [draw.randrange(min(tensor.bound, limit)) for _ in range(count)]
    return b"".join(number.to_bytes(itemsize, "little") for number in numbers)
