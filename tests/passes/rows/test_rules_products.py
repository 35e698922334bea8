"""Products and convolutions: rows of the left matrix, columns of the right one, matrices and images of a batch."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.rows.in_pieces import Case, check_case

aten = torch.ops.aten

CASES: Mapping[str, Case] = {
    "mm": Case(torch.mm, "ab,bc", "ac"),
    "mm with a transposed matrix": Case(lambda x, y: torch.mm(x, y.t()), "ab,cb", "ac"),
    "bmm": Case(torch.bmm, "abc,acd", "abd"),
    "addmm": Case(torch.addmm, "c,ab,bc", "ac"),
    "addmm with rows of bias": Case(torch.addmm, "ac,ab,bc", "ac"),
    "addmm with one bias a row": Case(lambda *xs: aten.addmm(*xs, beta=0.5, alpha=2), "a1,ab,bc", "ac"),
    "baddbmm": Case(torch.baddbmm, "abd,abc,acd", "abd"),
    "baddbmm with one bias": Case(torch.baddbmm, "1bd,abc,acd", "abd"),
    "linear": Case(F.linear, "abc,dc,d", "abd"),
    "convolution": Case(F.conv2d, "a3bc,4322,4", "a", blocks=False),
    "convolution of sequences": Case(lambda x, w: F.conv1d(x, w, padding=1, groups=2), "a4b,422", "a", blocks=False),
    "convolution, transposed": Case(lambda x, w: F.conv_transpose2d(x, w, stride=2), "a3bc,3422", "a", blocks=False),
    "max pooling": Case(lambda x: F.max_pool2d(x, 2, return_indices=True), "a3bc", "a", exact=True),
    "average pooling": Case(lambda x: F.avg_pool2d(x, 2), "a3bc", "a"),
    "adaptive average pooling": Case(lambda x: aten._adaptive_avg_pool2d(x, [2, 1]), "a3bc", "a"),
    "adaptive max pooling": Case(lambda x: aten.adaptive_max_pool2d(x, [2, 1]), "a3bc", "a", exact=True),
    "nearest": Case(lambda x: F.interpolate(x, scale_factor=2.0), "a3bc", "a", exact=True),
    "bilinear": Case(lambda x: aten.upsample_bilinear2d(x, [5, 3], False), "a3bc", "a"),
    "bicubic": Case(lambda x: aten.upsample_bicubic2d(x, [5, 3], False), "a3bc", "a"),
    "pixel shuffle": Case(lambda x: aten.pixel_shuffle(x, 2), "a4bc", "a", exact=True),
    "reflection": Case(lambda x: aten.reflection_pad2d(x, [1, 1, 1, 1]), "a3bc", "a", exact=True),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=6)
@given(st.data())
def test_pieces_are_the_whole(name: str, data: st.DataObject) -> None:
    check_case(CASES[name], data)
