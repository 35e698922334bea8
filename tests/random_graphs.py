"""Small graphs drawn by hypothesis: products with weights, sums, tuples, noise, numbers, and writes into inputs."""

from __future__ import annotations

import operator
from typing import Any

import torch
from hypothesis import strategies as st
from torch.fx import Graph, GraphModule, Node

from dynamo_genie.passes.graphs.semantics import Facts, Residency, Role, annotate
from tests.placed import make_topology

aten = torch.ops.aten

SIZE = 4
NBYTES = SIZE * SIZE * 4 * 64  # a batch of 64 small matrices, so that nothing counts as cheap
_SHAPE = (64, SIZE, SIZE)

STEPS = ("bmm", "weigh", "weigh", "add", "split", "noise", "view", "write", "mask")


@st.composite
def graphs(draw: st.DrawFn) -> GraphModule:
    """A graph of up to 14 steps over weights, inputs that may be written, and one mask that the client sends."""
    build = _Build(draw(st.integers(1, 4)), draw(st.integers(1, 3)))
    for _ in range(draw(st.integers(1, 14))):
        build.step(draw(st.sampled_from(STEPS)), lambda below: draw(st.integers(0, below - 1)))
    return build.finish()


@st.composite
def topologies(draw: st.DrawFn) -> Any:
    """One to three devices, some too small for some graphs, with slow or fast links."""
    memory = draw(st.lists(st.integers(1, 5).map(lambda n: n * NBYTES), min_size=1, max_size=3))
    return make_topology(
        memory,
        flops_per_s=draw(st.sampled_from([1e6, 1e12])),
        latency_s=draw(st.sampled_from([1e-6, 1e-2])),
        link_bytes_per_s=draw(st.sampled_from([1e6, 1e12])),
    )


class _Build:
    """Grows a graph step by step; every value is a batch of square matrices."""

    def __init__(self, n_weights: int, n_states: int) -> None:
        self.graph = Graph()
        self.weights = [self._input(f"weight_{i}", _SHAPE) for i in range(n_weights)]
        self.states = [self._input(f"state_{i}", _SHAPE) for i in range(n_states)]
        self.mask = self._input("mask", (SIZE, SIZE))
        self.values = list(self.states)
        self.written: dict[Node, Node] = {}
        fact = Facts(role=Role.WEIGHT, residency=Residency.PERSISTENT)
        annotate(dict.fromkeys(self.weights, fact))

    def step(self, kind: str, pick: Any) -> None:
        value = self.values[pick(len(self.values))]
        other = self.values[pick(len(self.values))]
        if kind == "bmm":
            self._add(aten.bmm.default, value, other)
        elif kind == "weigh":
            self._add(aten.bmm.default, value, self.weights[pick(len(self.weights))])
        elif kind == "add":
            self._add(aten.add.Tensor, value, other)
        elif kind == "view":
            self._add(aten.transpose.int, value, 1, 2)
        elif kind == "noise":
            self._add(aten.bernoulli.p, value, 0.5)
        elif kind == "mask":
            self._add(aten.mul.Tensor, value, self._call(aten.sin.default, self.mask))
        elif kind == "split":
            parts = self._call(aten.split.Tensor, value, SIZE // 2, 2)
            halves = [self._call(operator.getitem, parts, i) for i in (0, 1)]
            self._add(aten.cat.default, halves[::-1], 2)
        elif kind == "write":
            self.written[self.states[pick(len(self.states))]] = value

    def finish(self) -> GraphModule:
        """Writes come last, as AOTAutograd puts them, and what is returned was computed before them."""
        results = [self._call(aten.neg.default, value) for value in self.values[-3:]]
        news = {state: self._call(aten.mul.Tensor, value, 2) for state, value in self.written.items()}
        for state, new in news.items():
            self._call(aten.copy_.default, state, new)
        self.graph.output(tuple(results))
        return GraphModule({}, self.graph)

    def _input(self, name: str, shape: tuple[int, ...]) -> Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def _add(self, target: Any, *args: Any) -> None:
        self.values.append(self._call(target, *args))

    def _call(self, target: Any, *args: Any) -> Node:
        node = self.graph.call_function(target, args)
        values = torch.fx.map_arg(args, lambda each: each.meta["val"])
        node.meta["val"] = target(*values)
        return node
