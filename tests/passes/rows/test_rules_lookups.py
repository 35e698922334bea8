"""Lookups: along the indices, and along the dimensions of a table from which they do not choose."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.rows.in_pieces import Case, check_case

CASES: Mapping[str, Case] = {
    "embedding": Case(lambda table, i: F.embedding(i, table), "cd,[ab]", "ab", exact=True),
    "index": Case(lambda x, i: x[:, i], "abc,[d]", "acd", exact=True),
    "index by a matrix": Case(lambda x, i: x[:, i], "abc,[de]", "acde", exact=True),
    "index from the front": Case(lambda x, i: x[i], "ab,[cd]", "bcd", exact=True),
    "index by two": Case(lambda x, i, j: x[i, :, j], "abc,[d],[d]", "", exact=True),
    "index_select": Case(lambda x, i: x.index_select(1, i), "abc,[d]", "acd", exact=True),
    "gather": Case(lambda x, i: x.gather(1, i), "abc,[adc]", "ac", exact=True),
    "where": Case(lambda i, x, y: torch.where(i > 0, x, y), "[ab],b,ab", "ab", exact=True),
    "masked fill": Case(lambda x, i: x.masked_fill(i > 0, 1.5), "ab,[b]", "ab", exact=True),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(st.data())
def test_pieces_are_the_whole(name: str, data: st.DataObject) -> None:
    check_case(CASES[name], data)
