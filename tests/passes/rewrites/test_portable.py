"""After the portable pass no operator belongs to one kind of device, and the graph computes the same."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from dynamo_genie.passes.graphs.pipeline import Pass, run_passes
from dynamo_genie.passes.graphs.portable_operators import portable_attention, portable_attention_backward
from dynamo_genie.passes.rewrites.portable import make_portable
from tests.captured import capture


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def heads(*, grad: bool = False) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 4, 5, 8, requires_grad=grad) for _ in range(3)]


def targets(gm: GraphModule) -> list[object]:
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


def test_attention_and_its_gradient_become_portable_and_keep_their_values() -> None:
    compiled, captured = capture(attend, lambda gm: make_portable(gm).graph_module)
    inputs, twins = heads(grad=True), heads(grad=True)
    output, expected = compiled(*inputs), attend(*twins)
    output.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(output, expected)
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(inputs, twins, strict=True))
    assert portable_attention in targets(captured.forward[0])
    assert portable_attention_backward in targets(captured.backward[0])
    assert not any("for_cpu" in str(target) for graph in captured.graphs for target in targets(graph))


def test_a_graph_without_such_operators_is_left_alone() -> None:
    modified: list[bool] = []
    compiled, _ = capture(lambda x: x.sin(), lambda gm: modified.append(make_portable(gm).modified) or gm)
    compiled(torch.randn(3))
    assert modified == [False]


def test_running_it_twice_changes_nothing_more() -> None:
    found: list[bool] = []

    def twice(gm: GraphModule) -> GraphModule:
        found.extend(make_portable(gm).modified for _ in range(2))
        return gm

    compiled, _ = capture(attend, twice)
    compiled(*heads())
    assert found == [True, False]


def test_the_pipeline_reports_what_each_pass_did() -> None:
    reports = []

    def passes(gm: GraphModule) -> GraphModule:
        result = run_passes(gm, (Pass("portable", make_portable), Pass("again", make_portable)))
        reports.extend(result.records)
        return result.gm

    compiled, _ = capture(attend, passes)
    compiled(*heads())
    assert [(record.name, record.modified) for record in reports] == [("portable", True), ("again", False)]
    assert ("portable_attention", 1) in reports[0].operators
    assert reports[1].operators == ()
