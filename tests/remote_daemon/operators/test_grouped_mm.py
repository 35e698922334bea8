"""Products of groups of rows: as the groups alone would give, gradients included."""

from __future__ import annotations

import torch

from dynamo_genie.remote_daemon.operators.grouped_mm import grouped_mm, grouped_mm_backward


def test_each_group_is_multiplied_by_its_own_matrix_and_an_empty_group_by_none() -> None:
    rows, matrices = torch.randn(5, 3), torch.randn(3, 3, 2)
    out = grouped_mm(rows, matrices, torch.tensor([2, 2, 5]))
    assert torch.equal(out, torch.cat([rows[:2] @ matrices[0], rows[2:] @ matrices[2]]))


def test_gradients_are_those_of_the_separate_products() -> None:
    rows, matrices = torch.randn(4, 3, requires_grad=True), torch.randn(2, 3, 2, requires_grad=True)
    grad = torch.randn(4, 2)
    torch.cat([rows[:1] @ matrices[0], rows[1:] @ matrices[1]]).backward(grad)
    found = grouped_mm_backward(rows.detach(), matrices.detach(), torch.tensor([1, 4]), grad)
    assert rows.grad is not None and matrices.grad is not None
    assert torch.allclose(found[0], rows.grad)
    assert torch.allclose(found[1], matrices.grad)
