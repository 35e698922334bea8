"""Training on `remote_accelerator` against the CPU, bit by bit, for twenty steps; run in a process of its own.

`python -m tests.integration.device.training NAME ...` runs some programs of `PROGRAMS`, or all, eager and compiled,
and names what differs. A program is a model, an optimizer and features of training loops; each model meets several
features, and each feature several models. What is compiled is compared with eager code on the CPU, too, or where
AOTAutograd computes otherwise, with `aot_eager` there.
"""

from __future__ import annotations

import copy
import io
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import dynamo_genie
from dynamo_genie.device.register import register_device
from tests.integration.compare import difference
from tests.integration.models import VOCAB, make_model

DEVICE = "remote_accelerator:0"
STEPS = 20
RESUMED_AFTER = 10
BATCHES = 4
"""How many different ones there are; each comes again."""

Batch = Mapping[str, Tensor]

# --- models ----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Tells sequences of tokens apart by the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, 12)
        self.layers = nn.LSTM(12, 16, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor]:
        states, _ = self.layers(self.embedding(input_ids))
        return (F.cross_entropy(self.head(states[:, -1]), labels),)


def _resnet() -> nn.Module:
    """The form of a ResNet-18, with fewer channels."""
    config = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[2, 2, 2, 2], layer_type="basic", num_labels=3
    )
    return hf.ResNetForImageClassification(config)


def _tokens(**more: Callable[[Tensor], Tensor]) -> Batch:
    tokens = torch.randint(3, VOCAB, (4, 9))
    return {"input_ids": tokens, **{name: make(tokens) for name, make in more.items()}}


def _images(size: int) -> Batch:
    return {"pixel_values": torch.randn(4, 3, size, size), "labels": torch.randint(3, (4,))}


def _classes(tokens: Tensor) -> Tensor:
    return torch.randint(3, (len(tokens),))


@dataclass(frozen=True)
class Model:
    """A model of a kind, and batches for it."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]


MODELS = {
    "gpt2": Model(lambda: make_model("gpt2", resid_pdrop=0.1, attn_pdrop=0.1), lambda: _tokens(labels=Tensor.clone)),
    "llama": Model(lambda: make_model("llama"), lambda: _tokens(labels=Tensor.clone)),
    "bert": Model(
        lambda: make_model("bert", dropout=0.1), lambda: _tokens(labels=_classes, attention_mask=torch.ones_like)
    ),
    "vit": Model(lambda: make_model("vit"), lambda: _images(16)),
    "resnet": Model(_resnet, lambda: _images(32)),
    "lstm": Model(Recurrent, lambda: _tokens(labels=_classes)),
}

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.003),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.003, foreach=True),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=0.01),
}

PROGRAMS = {
    line.split()[0]: (line.split()[1], line.split()[2], frozenset(line.split()[3:]))
    for line in """\
        gpt2_adamw        gpt2    adamw      clipping schedule resume
        gpt2_adafactor    gpt2    adafactor  autocast accumulation checkpoint
        llama_adamw       llama   adamw      autocast layers clipping
        llama_sgd         llama   sgd        ema accumulation resume
        bert_adam         bert    adam       clipping accumulation ema layers
        bert_adafactor    bert    adafactor  autocast resume schedule
        vit_adamw         vit     adamw      schedule ema autocast
        vit_sgd           vit     sgd        checkpoint clipping resume
        resnet_sgd        resnet  sgd        ema schedule resume
        resnet_adam       resnet  adam       autocast accumulation
        lstm_adam         lstm    adam       clipping resume autocast
        lstm_adafactor    lstm    adafactor  accumulation schedule ema
    """.splitlines()
    if line.strip()
}
"""A model, an optimizer and features, by name."""


# --- a training loop -------------------------------------------------------------------------------------


@dataclass
class Training:
    """What a program trains with, on a device, and what it has seen."""

    device: str
    model: nn.Module
    optimizer_of: Callable[[Any], torch.optim.Optimizer]
    features: frozenset[str]
    backend: str | None
    losses: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.to(self.device)
        if "layers" in self.features:  # each computed again in the backward pass
            self.model.gradient_checkpointing_enable()
        self.optimizer = self.optimizer_of(self.model.parameters())
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.02, STEPS, cycle_momentum=False)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        self.run = torch.compile(self.model, backend=self.backend) if self.backend else self.model

    def cast(self) -> AbstractContextManager[Any]:
        if "autocast" not in self.features:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def loss(self, batch: Batch) -> Tensor:
        with self.cast():
            if "checkpoint" in self.features:
                loss: Tensor = checkpoint(lambda: self.run(**batch)[0], use_reentrant=False)
                return loss
            return self.run(**batch)[0]  # type: ignore[no-any-return]

    def step(self, batches: list[Batch]) -> None:
        """Take one step; with accumulation on two batches."""
        self.optimizer.zero_grad()
        parts = batches if "accumulation" in self.features else batches[:1]
        for batch in parts:
            loss = self.loss(batch) / len(parts)
            loss.backward()
            self.losses.append(loss.detach())
        if "clipping" in self.features:
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        self.optimizer.step()
        if "schedule" in self.features:
            self.schedule.step()
        if "ema" in self.features:
            self.average.update_parameters(self.model)

    def saved(self) -> bytes:
        file = io.BytesIO()
        objects = self.model, self.optimizer, self.schedule, self.average
        torch.save([thing.state_dict() for thing in objects], file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        """Go on from what was saved, loaded on the CPU."""
        states = torch.load(io.BytesIO(saved), map_location="cpu")
        for thing, state in zip((self.model, self.optimizer, self.schedule, self.average), states, strict=True):
            thing.load_state_dict(state)

    def seen(self) -> dict[str, Any]:
        """Return all that was trained, here; it must have stayed where it was to be trained."""
        assert {str(parameter.device) for parameter in self.model.parameters()} == {self.device}
        states = self.model.state_dict(), self.average.state_dict(), self.optimizer.state_dict()["state"]
        return {"losses": [loss.cpu() for loss in self.losses], "states": _here(states)}


def _here(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _here(item) for name, item in value.items()}
    return [_here(item) for item in value] if isinstance(value, list | tuple) else value


def train(program: str, device: str, backend: str | None) -> dict[str, Any]:
    """Run a program on a device, through a backend or eagerly; returns what can be seen afterwards."""
    name, optimizer, features = PROGRAMS[program]
    torch.compiler.reset()
    torch.manual_seed(0)
    model = MODELS[name].make().train()
    batches = [{key: value.to(device) for key, value in MODELS[name].batch().items()} for _ in range(BATCHES)]

    def begin() -> Training:
        return Training(device, copy.deepcopy(model), OPTIMIZERS[optimizer], features, backend)

    training = begin()
    torch.manual_seed(1)
    for step in range(STEPS):
        if step == RESUMED_AFTER and "resume" in features:
            saved, losses = training.saved(), training.losses
            torch.compiler.reset()
            training = begin()
            training.load(saved)
            training.losses = losses
        training.step([batches[step % BATCHES], batches[(step + 1) % BATCHES]])
    return training.seen()


# --- comparing -------------------------------------------------------------------------------------------

BACKENDS = {"eager": None, "compiled": "genie"}
AS_COMPILED = "aot_eager"
"""What computes on the CPU what AOTAutograd would have computed there."""


def compare(program: str) -> Iterator[tuple[str, str | None, str]]:
    """Train on the CPU and in both ways on the device; gives the way, what differs, and what it was compared with."""
    expected = train(program, "cpu", None)
    for way, backend in BACKENDS.items():
        dynamo_genie.reset_stats()
        with torch._dynamo.config.patch(allow_rnn=program == "lstm_adam"):
            found = train(program, DEVICE, backend)
        total = dynamo_genie.stats()["total"]
        assert total["eager_calls"] >= STEPS  # optimizers are not compiled
        left_alone = program == "lstm_adafactor"  # as Dynamo leaves every LSTM, unless it is told to try
        assert (total["calls"] >= 2 * STEPS) if backend and not left_alone else (total["calls"] == 0)
        differs, reference = difference(found, expected), "eager"
        if differs and backend:
            differs, reference = difference(found, train(program, "cpu", AS_COMPILED)), AS_COMPILED
        yield way, differs, reference


def main(names: list[str]) -> int:
    """Run some programs; return how many failed."""
    register_device()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    failed = 0
    for name in names:
        try:
            for way, differs, reference in compare(name):
                failed += differs is not None
                print(f"{name}, {way}: {differs or 'as on the CPU'} ({reference})", flush=True)
        except Exception:  # noqa: BLE001  # the others are to be run, too
            failed += 1
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
    dynamo_genie.shutdown()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(PROGRAMS)))
