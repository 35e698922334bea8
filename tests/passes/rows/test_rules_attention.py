"""Attention: sequences of a batch are independent; queries see earlier keys alone, or those of another sequence."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.passes.rows.in_pieces import Case, check_case

attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def causal(*qkv: Tensor) -> tuple[Tensor, Tensor]:
    return attend(*qkv, 0.0, True)


def masked(*args: Tensor) -> tuple[Tensor, Tensor]:
    return attend(*args[:3], attn_mask=args[3], scale=0.3)


CASES: Mapping[str, Case] = {
    "causal": Case(causal, "abcd,abcd,abcd", "ac", blocks=False),
    "causal, scaled": Case(lambda *x: attend(*x, is_causal=True, scale=0.5), "abcd,abcd,abcd", "ac", blocks=False),
    "causal over another sequence": Case(causal, "abcd,abed,abed", "a", blocks=False),
    "in both directions": Case(attend, "abcd,abcd,abcd", "a", blocks=False),
    "over another sequence": Case(attend, "abcd,abed,abed", "ac", blocks=False),
    "over another sequence, masked": Case(masked, "abcd,abed,abed,ce", "ac", blocks=False),
    "over another sequence, masked each": Case(masked, "abcd,abed,abed,a1ce", "ac", blocks=False),
    "with a mask": Case(masked, "abcd,abcd,abcd,cc", "a", blocks=False),
    "with a mask for each": Case(masked, "abcd,abcd,abcd,a1cc", "a", blocks=False),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(st.data())
def test_pieces_are_the_whole(name: str, data: st.DataObject) -> None:
    check_case(CASES[name], data)
