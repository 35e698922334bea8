"""Operations counted by our formulas are those that PyTorch's own counter sees, over graphs of real models."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dynamo_genie.passes.understanding.cost import find_costs, flops_of
from tests.captured import capture
from tests.integration.models import image_prompt, make_model, token_prompt
from tests.placed import prepare

aten = torch.ops.aten


Shape = tuple[int, ...]


def count_attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """PyTorch's counter does not know the kernel of the CPU; it has the formula of its siblings."""
    return sdpa_flop_count(query, key, value)


def count_attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


COUNTERS = {
    aten._scaled_dot_product_flash_attention_for_cpu: count_attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: count_attention_backward,
}


def count_both(call: Callable[[], object], wrap: Callable[[Callable[[GraphModule], GraphModule]], None]) -> list[int]:
    """Return what our formulas and what PyTorch's counter give for the graphs that `call` runs."""
    ours = [0]

    def add_up(gm: GraphModule) -> GraphModule:
        gm, _ = prepare(gm)
        ours[0] += sum(facts.flops or 0 for facts in find_costs(gm).values())
        return gm

    wrap(add_up)
    call()  # compiles; the counter would see the compiler's own runs of the operators
    with FlopCounterMode(display=False, custom_mapping=COUNTERS) as counter:
        call()
    return [ours[0], counter.get_total_flops()]


INPUTS = {
    "gpt2": lambda: token_prompt(batch=2, length=11).inputs,
    "bert": lambda: token_prompt(batch=2, left_padding=2).inputs,
    "vit": lambda: image_prompt().inputs,
    "convnext": lambda: image_prompt(size=32).inputs,
}


@pytest.mark.parametrize("name", INPUTS)
def test_operations_of_a_model_are_those_that_the_flop_counter_sees(name: str) -> None:
    model = make_model(name)

    def wrap(replace: Callable[[GraphModule], GraphModule]) -> None:
        model.forward, _ = capture(model.forward, replace)

    with torch.no_grad():
        ours, theirs = count_both(lambda: model(**INPUTS[name]()), wrap)
    assert ours == theirs > 0


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_operations_of_a_training_step_are_those_that_the_flop_counter_sees(name: str) -> None:
    model = make_model(name)

    def wrap(replace: Callable[[GraphModule], GraphModule]) -> None:
        model.forward, _ = capture(model.forward, replace)

    ours, theirs = count_both(lambda: model(**INPUTS[name](), return_dict=False)[0].sum().backward(), wrap)
    assert ours == theirs > 0


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_operations_of_a_convolution_and_its_gradients_are_those_that_the_flop_counter_sees(layer: type) -> None:
    x, model = torch.randn(2, 4, 9, 9, requires_grad=True), layer(4, 6, 3, stride=2)

    def wrap(replace: Callable[[GraphModule], GraphModule]) -> None:
        model.forward, _ = capture(model.forward, replace)

    ours, theirs = count_both(lambda: model(x).sum().backward(), wrap)
    assert ours == theirs > 0


def test_a_grouped_filter_meets_its_own_channels_only() -> None:
    found: list[int] = []
    compiled, _ = capture(
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        lambda gm: found.extend(filter(None, map(flops_of, gm.graph.nodes))) or gm,
    )
    with torch.no_grad():
        compiled(torch.randn(1, 4, 5, 5))
    assert found == [2 * (3 * 3) * (8 * 1 * 3 * 3)]


def test_sizes_are_those_of_the_example_and_moving_data_counts_no_operations() -> None:
    found: list[dict[str, tuple[int | None, int | None, str | None]]] = []

    def look(gm: GraphModule) -> GraphModule:
        found.append({node.name: (f.nbytes, f.flops, f.dtype) for node, f in find_costs(gm).items()})
        return gm

    compiled, _ = capture(lambda x, w: (x @ w).relu().t(), look, dynamic=True)
    compiled(torch.randn(3, 4), torch.randn(4, 5))
    assert found[0]["mm"] == (60, 2 * 3 * 4 * 5, "float32")
    assert found[0]["relu"] == (60, 0, "float32")
    assert found[0]["t"] == (60, 0, "float32")


def test_a_size_that_depends_on_data_leaves_the_cost_unknown() -> None:
    found: list[int | None] = []
    compiled, _ = capture(
        lambda x, w: x[x[:, 0] > 0] @ w,
        lambda gm: found.extend(flops_of(n) for n in gm.graph.nodes if n.name == "mm") or gm,
    )
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled(torch.randn(4, 4), torch.randn(4, 4))
    assert found == [None]
