"""Where PyTorch composes an operator by the kind of device: on `remote_accelerator` it gives the bits of the CPU.

One function for each, run in a process of their own: `python -m tests.integration.device.same_bits NAME ...`.
"""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.integration.device.checks import D, main


class Repeats(nn.Module):
    """Uses its weights several times, and one of them for two purposes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 16), nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens)
        for _ in range(3):
            hidden = self.layer(hidden).relu()
        return hidden @ self.embedding.weight.t()


def autocast_casts_a_weight_once() -> None:
    torch.manual_seed(0)
    here, tokens = Repeats(), torch.randint(9, (4, 5))
    there = copy.deepcopy(here).to(D)
    for options in ({}, {"cache_enabled": False}):
        gradients = []
        for model, device in ((here, "cpu"), (there, D)):
            model.zero_grad()
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, **options):
                with torch.no_grad():
                    model(tokens.to(device))
                out = model(tokens.to(device))
            out.float().square().mean().backward()
            gradients.append([parameter.grad.cpu() for parameter in model.parameters()])
        assert all(map(torch.equal, *gradients))
    with torch.autocast(torch.device(D).type, dtype=torch.bfloat16):
        before = there.layer(torch.ones(1, 16, device=D))
    with torch.no_grad():
        there.layer.weight.zero_()
    with torch.autocast(torch.device(D).type, dtype=torch.bfloat16):
        assert not torch.equal(there.layer(torch.ones(1, 16, device=D)).cpu(), before.cpu())  # cast anew


def encoders_run_fused_and_with_padding() -> None:
    torch.manual_seed(0)
    here = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2).eval()
    there = copy.deepcopy(here).to(D)
    data, padded = torch.randn(2, 5, 16), torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool()
    with torch.inference_mode():
        assert torch.equal(there(data.to(D)).cpu(), here(data))
        masked = there(data.to(D), src_key_padding_mask=padded.to(D)).cpu()
        expected = here(data, src_key_padding_mask=padded)  # without the padding, in a nested tensor
    torch.testing.assert_close(masked[~padded], expected[~padded])


def attention_takes_the_kernel_that_the_cpu_takes() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    for dtype in (torch.float32, torch.bfloat16):
        for mask in (None, torch.randn(2, 1, 9, 9, dtype=dtype), torch.rand(9, 9) > 0.2):
            found = []
            for device in ("cpu", D):
                inputs = [tensor.to(device, dtype, copy=True).requires_grad_() for tensor in (query, key, key + 1)]
                given = None if mask is None else mask.to(device)
                out = F.scaled_dot_product_attention(*inputs, given, enable_gqa=True)  # fewer heads of keys
                out.square().sum().backward()
                found.append([tensor.cpu() for tensor in (out.detach(), *(tensor.grad for tensor in inputs))])
            assert all(map(torch.equal, *found)), (dtype, mask)


def dropout_multiplies_by_the_noise_of_the_cpu() -> None:
    for p in (0.1, 0.5, 0.0, 1.0):
        for dtype in (torch.float32, torch.bfloat16):
            found = []
            for device in ("cpu", D):
                data = torch.linspace(-1, 1, 60).to(device, dtype).requires_grad_()
                torch.manual_seed(4)
                out = F.dropout(data, p)
                out.backward(torch.linspace(0, 1, 60).to(device, dtype))
                found.append([out.detach().cpu(), data.grad.cpu()])
            assert all(map(torch.equal, *found)), (p, dtype)
    with pytest.raises((RuntimeError, ValueError), match="dropout probability has to be between 0 and 1"):
        torch.dropout(torch.ones(2, device=D), 1.5, True)


def a_graph_has_the_operators_of_a_graph_for_the_cpu() -> None:
    """Some operators are one for the CPU and several for other devices, which round otherwise."""
    data = torch.linspace(-3, 3, 60)
    for function in (F.silu, F.mish):
        gradients = []
        for device in ("cpu", D):
            leaf = data.to(device, copy=True).requires_grad_()
            torch.compile(function, backend="genie")(leaf).sum().backward()
            gradients.append(leaf.grad.cpu())
        assert torch.equal(*gradients)


CHECKS = (
    autocast_casts_a_weight_once,
    attention_takes_the_kernel_that_the_cpu_takes,
    dropout_multiplies_by_the_noise_of_the_cpu,
    a_graph_has_the_operators_of_a_graph_for_the_cpu,
)

if __name__ == "__main__":
    named = {check.__name__: check for check in CHECKS}
    sys.exit(main(sys.argv[1:] or list(named), named))
