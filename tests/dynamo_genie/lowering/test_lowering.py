"""FX graph to Program and back, over graphs captured from real models: the numbers stay the same to the bit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

from dynamo_genie.errors import UnsupportedOperator
from dynamo_genie.lowering.graph import LoweredProgram, lower
from dynamo_genie.passes.rewrites.portable import make_portable
from dynamo_genie.remote_daemon.engines.eager import compile_program
from dynamo_genie.remote_daemon.operators.resolved_program import resolve_program
from dynamo_genie.runtime.wire import program as p
from tests.captured import capture
from tests.program_to_graph import raise_program

CPU = torch.device("cpu")
SMALL = {"vocab_size": 97, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64}


class ConvNet(nn.Module):
    """Convolutions with batch norm, a skip connection and pooling, as in a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(image), 2)
        x = torch.relu(x + self.block(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def tokens(length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 97, (2, length))}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], dict[str, Tensor]]]] = {
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=97, n_positions=64, bos_token_id=0, eos_token_id=0)
        ),
        tokens,
    ),
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **SMALL)), tokens),
    "bert": (
        lambda: BertModel(BertConfig(**SMALL)),
        lambda length: {**tokens(length), "attention_mask": torch.ones(2, length).long()},
    ),
    "vit": (
        lambda: ViTModel(
            ViTConfig(
                image_size=32, patch_size=8, hidden_size=32, num_attention_heads=4, num_hidden_layers=2,
                intermediate_size=64,
            )
        ),
        lambda length: {"pixel_values": torch.randn(length - 5, 3, 32, 32)},
    ),
    "convnet": (ConvNet, lambda length: {"image": torch.randn(length, 3, 8, 8)}),
}  # fmt: skip


def constants_of(program: p.Program) -> list[Tensor]:
    return [
        torch.frombuffer(bytearray(constant.data), dtype=getattr(torch, constant.spec.dtype)).view(constant.spec.shape)
        if constant.data
        else torch.empty(constant.spec.shape, dtype=getattr(torch, constant.spec.dtype))
        for constant in program.constants
    ]


def through_engine(lowered: LoweredProgram) -> Callable[..., Any]:
    program = p.decode_program(lowered.encoded)
    execute = compile_program(resolve_program(program, CPU), constants_of(program))
    return lambda *inputs: execute([*inputs, *lowered.lifted_constants])


def through_fx(lowered: LoweredProgram) -> Callable[..., Any]:
    program = p.decode_program(lowered.encoded)
    gm = raise_program(program, constants_of(program))
    assert lower_again(gm).nodes == program.nodes
    return lambda *inputs: gm(*inputs, *lowered.lifted_constants)


def lower_again(gm: GraphModule) -> p.Program:
    """Lower a raised graph, whose placeholders carry no example values."""
    for node in gm.graph.find_nodes(op="placeholder"):
        node.meta["val"] = torch.empty(0)
    return lower(gm).program


def results(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def step(module: nn.Module, function: Callable[..., Any], inputs: dict[str, Tensor], *, train: bool) -> list[Tensor]:
    """Run one seeded call, and backward in training; return everything that it computes or changes."""
    torch.manual_seed(5)
    with torch.set_grad_enabled(train):
        output = function(**inputs)
    first = results(output if isinstance(output, Tensor) else output[0])
    if train:
        first[0].square().sum().backward()
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in module.parameters()]
    module.zero_grad()
    return [*(tensor.detach() for tensor in first), *gradients, *(buffer.clone() for buffer in module.buffers())]


WAYS = [(name, through_engine) for name in MODELS] + [("gpt2", through_fx), ("convnet", through_fx)]


@pytest.mark.parametrize("train", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_a_lowered_model_computes_what_eager_computes(name: str, train: bool, way: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    make, inputs_of = MODELS[name]
    module, twin = make().train(train), make().train(train)
    twin.load_state_dict(module.state_dict())
    compiled, captured = capture(module, lambda gm: way(lower(make_portable(gm).graph_module)))
    for length in (7, 9):  # the second length makes Dynamo capture again, with symbolic sizes
        inputs = inputs_of(length)
        expected = step(twin, twin, inputs, train=train)
        found = step(module, compiled, inputs, train=train)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(captured.forward) == 2
    assert len(captured.backward) == (2 if train else 0)


def captured_program(function: Callable[..., Any], *inputs: Any, **options: Any) -> LoweredProgram:
    found: list[LoweredProgram] = []

    def replace(gm: GraphModule) -> Callable[..., Any]:
        found.append(lower(gm))
        return through_engine(found[-1])

    compiled, _ = capture(function, replace, **options)
    with torch.no_grad():
        compiled(*inputs)
    return found[0]


def test_symbolic_sizes_become_scalar_inputs() -> None:
    lowered = captured_program(lambda x: x.reshape(-1, x.shape[0] * 2), torch.randn(6, 4), dynamic=True)
    kinds = [item.kind for item in lowered.program.inputs if isinstance(item, p.ScalarInput)]
    assert kinds == ["int", "int"]
    assert any(node.op == "operator.mul" for node in lowered.program.nodes)


def test_inputs_written_in_place_are_reported() -> None:
    def write(cache: Tensor, new: Tensor) -> Tensor:
        cache[:, 1:2].copy_(new)
        return cache.sum()

    lowered = captured_program(write, torch.zeros(2, 4), torch.ones(2, 1))
    assert lowered.program.mutated_inputs == (0,)


def test_random_programs_say_so_and_attention_is_not_random() -> None:
    x = torch.randn(1, 2, 4, 8)
    assert captured_program(lambda y: torch.nn.functional.dropout(y), x).program.random
    attention = captured_program(lambda y: nn.functional.scaled_dot_product_attention(y, y, y), x).program
    assert [node.op for node in attention.nodes][:2] == ["genie.attention", "getitem"]
    assert not attention.random


def test_no_device_ever_gets_into_a_program() -> None:
    lowered = captured_program(lambda x: x + torch.ones(3, device="cpu").to(torch.float64), torch.randn(3))
    assert b"cpu" not in lowered.encoded
    assert b"device" not in lowered.encoded


def test_nodes_carry_the_line_of_the_user_program() -> None:
    lowered = captured_program(lambda x: x.cosh(), torch.randn(3))
    assert lowered.node_lines[0] is not None
    assert "test_lowering.py" in lowered.node_lines[0]
    assert "x.cosh()" in lowered.node_lines[0]


def test_large_constants_are_lifted_and_small_ones_are_kept() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(4)
    small = graph.call_function(torch.ops.aten.add.Tensor, (x, graph.get_attr("small")))
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (small, graph.get_attr("large"))),))
    root = nn.Module()
    root.register_buffer("small", torch.arange(4.0))
    root.register_buffer("large", torch.full((5000, 4), 2.0))
    lowered = lower(GraphModule(root, graph))
    assert [tensor.shape for tensor in lowered.lifted_constants] == [(5000, 4)]
    assert len(lowered.program.constants) == 1
    assert torch.equal(
        through_engine(lowered)(torch.ones(4))[0], (torch.ones(4) + torch.arange(4.0)) * torch.full((5000, 4), 2.0)
    )


def test_an_operator_outside_the_table_is_refused_with_its_line_and_the_remedy() -> None:
    gm = GraphModule(nn.Module(), torch.fx.Graph())
    x = gm.graph.placeholder("x")
    x.meta["val"] = torch.empty(2)
    sparse = gm.graph.call_function(torch.ops.aten._to_sparse.default, (x,))
    sparse.meta["stack_trace"] = 'File "model.py", line 3, in forward\n    return x.to_sparse()'
    gm.graph.output((sparse,))
    with pytest.raises(UnsupportedOperator) as caught:
        lower(gm)
    message = str(caught.value)
    assert "aten._to_sparse.default" in message
    assert 'File "model.py", line 3, in forward: return x.to_sparse()' in message
    assert "torch.compiler.disable" in message


def test_higher_order_operators_are_refused_by_name() -> None:
    gm = GraphModule(nn.Module(), torch.fx.Graph())
    x = gm.graph.placeholder("x")
    x.meta["val"] = torch.empty(2)
    gm.graph.output((gm.graph.call_function(torch.ops.higher_order.associative_scan, (x, None, None)),))
    with pytest.raises(UnsupportedOperator, match=r"higher_order\.associative_scan"):
        lower(gm)
