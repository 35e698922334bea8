"""What moves elements: pieces have the very bits of the whole, along every dimension that a rule accepts."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.rows.in_pieces import Case, check_case

aten = torch.ops.aten

CASES: Mapping[str, Case] = {
    "view that merges": Case(lambda x: x.view(x.shape[0] * x.shape[1], -1), "abcd", "abcd", exact=True),
    "view that parts again": Case(lambda x: x.view(-1, x.shape[3]).view(x.shape) + 0, "abcd", "abcd", exact=True),
    "reshape of a permutation": Case(lambda x: x.permute(0, 2, 1).reshape(x.shape[0], -1), "abc", "abc", exact=True),
    "expand": Case(lambda x: x.expand(x.shape[0], 3, x.shape[2]), "a1b", "ab", exact=True),
    "expand in front": Case(lambda x: x.expand(2, *x.shape), "ab", "ab", exact=True),
    "permute": Case(lambda x: x.permute(2, 0, 1), "abc", "abc", exact=True),
    "transpose": Case(lambda x: x.transpose(-1, 0), "abc", "abc", exact=True),
    "t": Case(lambda x: x.t(), "ab", "ab", exact=True),
    "unsqueeze": Case(lambda x: (x.unsqueeze(0), x.unsqueeze(1), x.unsqueeze(-1)), "ab", "ab", exact=True),
    "squeeze": Case(lambda x: aten.squeeze.dim(x, 1), "a1b", "ab", exact=True),
    "squeeze of several": Case(lambda x: aten.squeeze.dims(x, [0, 2]), "1a1b", "ab", exact=True),
    "squeeze of a row": Case(lambda x: aten.squeeze.dim(x, 1), "ab", "a", exact=True),
    "squeeze of all": Case(lambda x: aten.squeeze.default(x), "a1b", "", exact=True),
    "slice": Case(lambda x: x[:, 1:], "abc", "ac", exact=True),
    "slice of all": Case(lambda x: aten.slice.Tensor(x, 1), "abc", "abc", exact=True),
    "select": Case(lambda x: x[:, -1], "abc", "ac", exact=True),
    "split": Case(lambda x: torch.split(x, 2, dim=1), "abc", "ac", exact=True),
    "split in sizes": Case(lambda x: torch.split(x, [1, x.shape[0] - 1]), "ab", "b", exact=True),
    "chunk": Case(lambda x: torch.chunk(x, 2, -1), "ab", "a", exact=True),
    "unbind": Case(lambda x: x.unbind(1), "abc", "ac", exact=True),
    "cat": Case(lambda *xs: torch.cat(xs, 1), "abc,adc", "ac", exact=True),
    "cat with nothing": Case(lambda x: torch.cat([torch.empty(0), x], -2), "abc", "abc", exact=True),
    "stack": Case(lambda *xs: torch.stack(xs, 1), "ab,ab", "ab", exact=True),
    "stack at the end": Case(lambda *xs: torch.stack(xs, -1), "ab,ab", "ab", exact=True),
    "flip": Case(lambda x: x.flip(1), "abc", "ac", exact=True),
    "roll": Case(lambda x: x.roll(1, 0), "ab", "b", exact=True),
    "roll of all": Case(lambda x: x.roll(1), "ab", "", exact=True),
    "pad": Case(lambda x: F.pad(x, (1, 2)), "ab", "a", exact=True),
    "pad before the last": Case(lambda x: F.pad(x, (0, 0, 2, 0)), "abc", "ac", exact=True),
    "pad that cuts off": Case(lambda x: F.pad(x, (0, 0, -1, 0)), "abc", "ac", exact=True),
    "clone": Case(lambda x: x.permute(1, 0, 2).clone(memory_format=torch.contiguous_format), "abc", "abc", exact=True),
    "copy to another dtype": Case(lambda x: x.to(torch.float64), "ab", "ab", exact=True),
    "view of another dtype": Case(lambda x: x.view(torch.int16), "ab", "", exact=True),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(st.data())
def test_pieces_are_the_whole(name: str, data: st.DataObject) -> None:
    check_case(CASES[name], data)
