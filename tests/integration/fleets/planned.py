"""Daemons that placement takes for slow, so that small models are worth a pipeline, and the plans it then makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.fx import GraphModule

from dynamo_genie.calls import in_parts
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.connections.fleet import Fleet
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.tensor.remote_tensor import handle_of

FLOPS_PER_S, BYTES_PER_S = 1e8, 1e11
"""A thousandth of a core, with memory that costs nothing: arithmetic decides, whatever machine tests run on."""

WIDTH, LAYERS, VOCAB, POSITIONS = 128, 4, 512, 2048


@dataclass(frozen=True)
class Planned:
    """What was decided for one call: the plan, and the one without pieces that it had to beat."""

    plan: PlacementPlan
    whole: PlacementPlan
    in_pieces: bool

    @property
    def devices(self) -> list[str]:
        """The device of each part, in the order in which parts are sent."""
        return [partition.device for partition in self.plan.partitions]

    @property
    def crossed(self) -> set[tuple[str, str]]:
        """The pairs of devices between which values go."""
        return {(cut.source, cut.target) for cut in self.plan.cuts}

    def because(self, *words: str) -> bool:
        """Say whether some reason has all these words."""
        return any(all(word in reason for word in words) for reason in self.plan.reasons)


class Plans:
    """Every decision about pieces, in order; `memory_nbytes` is what placement then believes a device can hold."""

    def __init__(self) -> None:
        self.all: list[Planned] = []
        self.memory_nbytes: int | None = None

    @property
    def in_pieces(self) -> list[Planned]:
        """Those that chose pieces."""
        return [planned for planned in self.all if planned.in_pieces]

    @property
    def only(self) -> Planned:
        """The one decision there was."""
        (planned,) = self.all
        return planned

    def take(self) -> list[Planned]:
        """Return all so far, and begin anew."""
        found, self.all = self.all, []
        return found

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let all devices be slow, and listen."""
        honest, decide = Fleet.topology, in_parts.pipelined

        def slow(fleet: Fleet, counted_twice: Any) -> Topology:
            topology = honest(fleet, counted_twice)
            known = dict(flops_per_s=FLOPS_PER_S, bytes_per_s=BYTES_PER_S)
            if self.memory_nbytes is not None:
                known["memory_nbytes"] = self.memory_nbytes
            return replace(topology, devices=tuple(replace(device, **known) for device in topology.devices))

        def listen(gm: GraphModule, args: Sequence[Any], whole: PlacementPlan, *more: Any) -> Any:
            chosen, plan = decide(gm, args, whole, *more)
            self.all.append(Planned(plan, whole, chosen is not gm))
            return chosen, plan

        monkeypatch.setattr(Fleet, "topology", slow)
        monkeypatch.setattr(in_parts, "pipelined", listen)


def long_gpt2(**changes: Any) -> nn.Module:
    """Four layers of which attention is the smaller part at 1,536 tokens."""
    torch.manual_seed(0)
    shape = dict(n_embd=WIDTH, n_layer=LAYERS, n_head=4, vocab_size=VOCAB, n_positions=POSITIONS, initializer_range=0.2)
    config = hf.GPT2Config(**{**shape, "bos_token_id": 1, "eos_token_id": 2, **changes})
    return _to_the_full_length(hf.GPT2LMHeadModel(config).eval())


def long_llama(**changes: Any) -> nn.Module:
    """As `long_gpt2`, with grouped heads and rotations."""
    torch.manual_seed(0)
    shape = dict(hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4)
    ids = dict(vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    more = dict(num_key_value_heads=2, max_position_embeddings=POSITIONS, initializer_range=0.2)
    return _to_the_full_length(hf.LlamaForCausalLM(hf.LlamaConfig(**{**shape, **ids, **more, **changes})).eval())


LONG = {"gpt2": long_gpt2, "llama": long_llama}


def _to_the_full_length(model: Any) -> nn.Module:
    config = model.generation_config
    config.eos_token_id, config.pad_token_id, config.disable_compile = None, 0, True
    return model


def prompt(length: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def nbytes_of(model: nn.Module) -> int:
    """Return what the weights take, tied ones once."""
    return sum({p.data_ptr(): p.nbytes for p in model.parameters()}.values())


def caches_of(result: Any) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of each layer."""
    return [(layer.keys, layer.values) for layer in result.past_key_values.layers]


def device_of(tensor: Tensor) -> str | None:
    """Return the endpoint of the daemon where a tensor lives; None for one that is here."""
    handle = handle_of(tensor)
    found = [c.endpoint for c in CONNECTIONS.all() if handle is not None and c.session is handle.session]
    return found[0] if found else None
