"""A network that solves the heat equation: first and second derivatives by `torch.func`, Adam and then L-BFGS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

STEPS = 5


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))
    parameters = dict(network.named_parameters())

    def u(point: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return functional_call(network, weights, (point,)).squeeze(-1)

    def loss_of(weights: dict[str, Tensor], inside: Tensor, start: Tensor) -> Tensor:
        first = vmap(grad(u), in_dims=(0, None))(inside, weights)  # [points, (x, t)]
        second = vmap(hessian(u), in_dims=(0, None))(inside, weights)  # [points, (x, t), (x, t)]
        residual = first[:, 1] - 0.1 * second[:, 0, 0]
        initial = vmap(u, in_dims=(0, None))(start, weights) - torch.sin(torch.pi * start[:, 0])
        return residual.square().mean() + initial.square().mean()

    compiled = torch.compile(loss_of, backend=backend)
    inside = torch.rand(16, 2)
    start = torch.cat((torch.rand(8, 1), torch.zeros(8, 1)), dim=1)
    losses = []
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = compiled(parameters, inside, start)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    refine = torch.optim.LBFGS(network.parameters(), max_iter=4, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        refine.zero_grad()
        loss = compiled(parameters, inside, start)
        loss.backward()
        return loss

    losses.append(float(refine.step(closure)))
    return {"losses": losses, "curvature": hessian(u)(inside[0], parameters), "weights": network.state_dict()}
