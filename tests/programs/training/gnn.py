"""Graph networks without a library: messages gathered by edge, added up by `index_add` and `scatter_reduce`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NODES, EDGES, CLASSES = 20, 60, 3


class GraphConvolution(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        degree = torch.zeros(x.size(0)).scatter_add_(0, target, torch.ones(target.size(0))).clamp(min=1)
        norm = (degree[source] * degree[target]).rsqrt()
        return torch.zeros(x.size(0), self.linear.out_features).index_add_(
            0, target, self.linear(x)[source] * norm[:, None]
        )


class GraphAttention(nn.Module):
    def __init__(self, inputs: int, outputs: int, heads: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs * heads, bias=False)
        self.left, self.right = nn.Parameter(torch.randn(heads, outputs)), nn.Parameter(torch.randn(heads, outputs))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        h = self.linear(x).view(x.size(0), *self.left.shape)  # [nodes, heads, channels]
        score = F.leaky_relu((h * self.left).sum(-1)[source] + (h * self.right).sum(-1)[target], 0.2)
        index = target[:, None].expand_as(score)
        highest = torch.full((x.size(0), score.size(1)), -1e9).scatter_reduce(0, index, score, reduce="amax")
        weight = (score - highest[target]).exp()
        total = torch.zeros_like(highest).scatter_add(0, index, weight)
        weight = weight / (total[target] + 1e-9)
        return torch.zeros_like(h).index_add(0, target, h[source] * weight[..., None]).mean(1)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GraphConvolution(6, 8), GraphAttention(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor, graphs: int) -> tuple[Tensor, Tensor]:
        x = F.dropout(F.elu(self.first(x, edges)), 0.2, self.training)
        x = F.elu(self.second(x, edges))
        pooled = torch.zeros(graphs, x.size(1)).scatter_reduce(
            0, graph[:, None].expand_as(x), x, reduce="mean", include_self=False
        )
        return self.head(x), pooled


def main(backend: str) -> dict[str, Any]:
    torch.manual_seed(2)
    features, edges = torch.randn(NODES, 6), torch.randint(NODES, (2, EDGES))
    labels, graph = torch.randint(CLASSES, (NODES,)), torch.arange(NODES) // 7
    mask = torch.rand(NODES) > 0.4
    model = Network()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=5e-4)
    losses, accuracies = [], []
    for epoch in range(5):
        kept = edges[:, torch.rand(EDGES) > 0.1] if epoch == 3 else edges
        logits, pooled = compiled(features, kept, graph, 3)
        loss = F.cross_entropy(logits[mask], labels[mask]) + 1e-3 * pooled.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        accuracies.append((logits.argmax(1)[~mask] == labels[~mask]).float().mean().item())
    model.eval()
    return {"losses": losses, "accuracies": accuracies, "out": compiled(features, edges, graph, 3)}
