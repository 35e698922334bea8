"""What `load_weights` must do, one function for each; run in a process of their own, which starts a daemon.

`python -m tests.integration.loading.checks NAME ...` runs some and names what failed; `fast` and `slow` are those that
run with the fast tests and those that do not.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model, LlamaConfig, LlamaForCausalLM

import dynamo_genie
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.device.device_tensor import DeviceTensor
from dynamo_genie.errors import ModelFileError, NotRecoverable, OptionError, QuotaExceeded
from dynamo_genie.remote_daemon.model_files.digest_index import FOLDER
from dynamo_genie.runtime.wire import messages as m
from tests.integration.real_daemon import RealDaemon, SimulatedDaemon, eventually
from tests.remote_daemon.model_files.written import write_file

D = "remote_accelerator:0"
LLAMA = LlamaConfig(
    hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=512, initializer_range=0.3,
)  # fmt: skip
PROMPT = torch.tensor([[5, 17, 300, 2, 44]])


@contextmanager
def serving(
    root: Path, *more: str, memory_limit: str = "0", kind: type[RealDaemon] = RealDaemon
) -> Iterator[RealDaemon]:
    """Run a daemon with these models, whose device is D."""
    with kind(memory_limit=memory_limit, more=["--model-dir", str(root), *more]) as daemon:
        dynamo_genie.connect(daemon.endpoint)
        try:
            yield daemon
        finally:
            dynamo_genie.shutdown()


def a_linear(root: Path, name: str = "linear.safetensors", **tensors: Tensor) -> dict[str, Tensor]:
    """Write a linear layer; return its tensors."""
    found = {"weight": torch.randn(3, 5), "bias": torch.randn(3), **tensors}
    write_file(root / name, found)
    return found


def on_meta(make: Callable[[], nn.Module]) -> Any:
    with torch.device("meta"):
        return make()


def sent() -> dict[str, Any]:
    total: dict[str, Any] = dynamo_genie.stats()["total"]
    return total


def generated(model: Any, ids: Tensor) -> list[Any]:
    tokens: list[Any] = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0).tolist()
    return tokens


# --- models of transformers ----------------------------------------------------------------------------------


def a_llama_of_shards_generates_eagerly_and_compiled_what_it_does_on_the_cpu(root: Path) -> None:
    _generates(root, tied=True)


def a_llama_without_tied_weights_does_too(root: Path) -> None:
    _generates(root, tied=False)


def _generates(root: Path, *, tied: bool) -> None:
    config = LlamaConfig.from_dict({**LLAMA.to_dict(), "tie_word_embeddings": tied})
    here = LlamaForCausalLM(config).eval()
    here.save_pretrained(root / "llama", max_shard_size="200KB")
    expected = generated(here, PROMPT)
    assert len(set(expected[0])) > 8, "a model that repeats itself shows nothing"
    with serving(root):
        there = on_meta(lambda: LlamaForCausalLM(config)).eval()
        assert dynamo_genie.load_weights(there, "llama", device=D) == ([], [])
        assert all(type(tensor) is DeviceTensor for tensor in (*there.parameters(), *there.buffers()))
        assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in there.parameters())
        assert (there.lm_head.weight is there.model.embed_tokens.weight) is tied
        assert torch.equal(there.model.rotary_emb.inv_freq.cpu(), here.model.rotary_emb.inv_freq)
        assert generated(there, PROMPT.to(D)) == expected
        there.forward = torch.compile(there.forward, backend="genie")
        assert generated(there, PROMPT.to(D)) == expected
        assert sent()["sent"]["weight"] == 0
        assert sent()["sent_total"] < 1_000_000
        torch._dynamo.reset()


def a_gpt2_with_other_dtype_and_tied_weights_is_what_torch_casts(root: Path) -> None:
    here = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=100, n_positions=32)).eval()
    here.save_pretrained(root / "gpt2")
    with serving(root):
        there = on_meta(lambda: GPT2LMHeadModel(here.config)).eval()
        dynamo_genie.load_weights(there, "gpt2", device=D, dtype=torch.bfloat16)
        assert there.lm_head.weight is there.transformer.wte.weight
        for name, parameter in here.named_parameters():
            found = there.get_parameter(name)
            assert found.dtype == torch.bfloat16
            assert torch.equal(found.cpu(), parameter.detach().bfloat16()), name
        with torch.no_grad():
            logits = there(PROMPT.remainder(100).to(D)).logits.cpu()
            assert torch.equal(logits, here.bfloat16()(PROMPT.remainder(100)).logits)


def a_file_of_the_inner_model_fills_the_outer_one_and_the_other_way_round(root: Path) -> None:
    config = GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=100, n_positions=32)
    outer, inner = GPT2LMHeadModel(config), GPT2Model(config)
    outer.save_pretrained(root / "outer")
    inner.save_pretrained(root / "inner")
    with serving(root):
        for make, name, source in ((GPT2LMHeadModel, "inner", inner), (GPT2Model, "outer", outer.transformer)):
            there = on_meta(lambda make=make: make(config))
            assert dynamo_genie.load_weights(there, name, device=D) == ([], [])
            found = getattr(there, "transformer", there)
            assert torch.equal(found.wte.weight.detach().cpu(), source.wte.weight.detach())


# --- any model -------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """A model with all kinds of tensors: a frozen parameter, buffers that are saved and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.register_buffer("scale", torch.full((3,), 2.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.norm(self.linear(x)) * self.scale + self.frozen
        return scaled


def a_model_with_memory_is_filled_and_moved_whole_and_trains(root: Path) -> None:
    source = Mixed()
    source.norm.running_mean.normal_()
    write_file(root / "mixed.safetensors", {name: t.detach() for name, t in source.state_dict().items()})
    before = (root / "mixed.safetensors").read_bytes()
    with serving(root):
        there = Mixed()
        assert dynamo_genie.load_weights(there, "mixed.safetensors", device=D) == ([], [])
        assert {type(tensor) for tensor in (*there.parameters(), *there.buffers())} == {DeviceTensor}
        assert not there.frozen.requires_grad
        assert there.norm.num_batches_tracked.dtype == torch.int64
        data = torch.randn(8, 5)
        for model, batch in ((source, data), (there, data.to(D))):
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
            for _ in range(3):
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
        for name, tensor in source.state_dict().items():
            assert torch.equal(there.state_dict()[name].cpu(), tensor), name
    assert (root / "mixed.safetensors").read_bytes() == before


def what_was_loaded_is_written_alone_and_seen_by_its_views(root: Path) -> None:
    stored = a_linear(root)
    with serving(root):
        first, second = nn.Linear(5, 3), nn.Linear(5, 3)
        for model in (first, second):
            dynamo_genie.load_weights(model, "linear.safetensors", device=D)
        with torch.no_grad():
            row, turned = first.weight[1], first.weight.t()
            row.fill_(7)
            turned[0].mul_(2)
            expected = stored["weight"].clone()
            expected[1] = 7
            expected[:, 0] *= 2
            assert torch.equal(first.weight.cpu(), expected)
            assert torch.equal(turned.cpu(), expected.t())
            assert row.tolist() == [14, 7, 7, 7, 7]
            assert torch.equal(second.weight.cpu(), stored["weight"])


def two_loads_of_one_model_share_its_memory(root: Path) -> None:
    stored = {"weight": torch.randn(1024, 512), "bias": torch.randn(1024)}
    write_file(root / "linear.safetensors", stored)
    for kind in (RealDaemon, SimulatedDaemon):
        with serving(root, kind=kind):
            models = [on_meta(lambda: nn.Linear(512, 1024)) for _ in range(3)]
            used = []
            for model in models:
                dynamo_genie.load_weights(model, "linear.safetensors", device=D)
                x = torch.ones(2, 512).to(D)
                assert torch.equal(model(x).cpu(), nn.functional.linear(x.cpu(), stored["weight"], stored["bias"]))
                del x
                used.append(session().inspect().memory_used)
            assert used[0] == used[1] == used[2] > 1024 * 512 * 4


def session() -> Any:
    (connection,) = CONNECTIONS.all()
    return connection.session


def each_of_several_daemons_has_models_of_its_own(root: Path) -> None:
    stored = [a_linear(root / str(i)) for i in range(2)]
    with (
        RealDaemon(more=["--model-dir", str(root / "0")]) as first,
        RealDaemon(more=["--model-dir", str(root / "1")]) as second,
    ):
        dynamo_genie.connect([first.endpoint, second.endpoint])
        layers = [on_meta(lambda: nn.Linear(5, 3)) for _ in range(2)]
        for index, layer in enumerate(layers):
            dynamo_genie.load_weights(layer, "linear.safetensors", device=f"remote_accelerator:{index}")
            assert layer.weight.device.index == index
            assert torch.equal(layer.weight.detach().cpu(), stored[index]["weight"])
        torch.remote_accelerator.set_device(1)
        try:
            again = nn.Linear(5, 3)
            dynamo_genie.load_weights(again, "linear.safetensors")
            assert torch.equal(again.weight.detach().cpu(), stored[1]["weight"])
        finally:
            torch.remote_accelerator.set_device(0)
            dynamo_genie.shutdown()


# --- what does not fit -----------------------------------------------------------------------------------------


def names_that_are_missing_or_too_many_are_told(root: Path) -> None:
    a_linear(root, extra=torch.ones(2))
    write_file(root / "half.safetensors", {"weight": torch.ones(3, 5)})
    with serving(root):
        with pytest.raises(ModelFileError, match=r"does not fit Linear:\n\tUnexpected in the file: extra"):
            dynamo_genie.load_weights(nn.Linear(5, 3), "linear.safetensors", device=D)
        assert dynamo_genie.load_weights(nn.Linear(5, 3), "linear.safetensors", device=D, strict=False) == (
            [],
            ["extra"],
        )
        model = on_meta(lambda: nn.Linear(5, 3))
        with pytest.raises(RuntimeError, match="Missing in the file: bias"):
            dynamo_genie.load_weights(model, "half.safetensors", device=D)
        assert model.weight.is_meta, "what does not fit changes nothing"
        assert dynamo_genie.load_weights(model, "half.safetensors", device=D, strict=False) == (["bias"], [])
        assert model.bias.is_meta
        real = nn.Linear(5, 3)
        bias = real.bias.detach().clone()
        dynamo_genie.load_weights(real, "half.safetensors", device=D, strict=False)
        assert torch.equal(real.bias.detach().cpu(), bias)
        assert real.bias.device == torch.device(D)


def shapes_names_and_arguments_that_are_wrong_are_told(root: Path) -> None:
    a_linear(root)
    with serving(root):
        for strict in (True, False):
            with pytest.raises(ModelFileError, match=r"size mismatch for weight: \(3, 5\) in the file, \(4, 5\) in"):
                dynamo_genie.load_weights(nn.Linear(5, 4), "linear.safetensors", device=D, strict=strict)
        for name in ("nothing", "../linear.safetensors", "/etc/passwd", ""):
            with pytest.raises(ModelFileError, match=r"no model|no name of a model"):
                dynamo_genie.load_weights(nn.Linear(5, 3), name, device=D)
        wrapped = torch.compile(nn.Linear(5, 3), backend="genie")
        dynamo_genie.load_weights(wrapped, "linear.safetensors", device=D)
        assert wrapped(torch.ones(1, 5).to(D)).device == torch.device(D)
        torch._dynamo.reset()
        with pytest.raises(OptionError, match="fills a model"):
            dynamo_genie.load_weights(3, "linear.safetensors", device=D)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="floating point dtype"):
            dynamo_genie.load_weights(nn.Linear(5, 3), "linear.safetensors", device=D, dtype=torch.int8)
        with pytest.raises(ValueError, match="expected a device of the type"):
            dynamo_genie.load_weights(nn.Linear(5, 3), "linear.safetensors", device="cpu")
        with pytest.raises(ModelFileError, match="has no tensor 'nothing'"), session().lock:
            session().weight_channel.load([session().mint()], "linear.safetensors", ["nothing"], "")


def what_is_no_name_is_told_and_the_session_goes_on(root: Path) -> None:
    with serving(root):
        there = torch.ones(2, device=D) + 1
        for wrong in (None, b"linear", 5, "x" * 5000, "\ud800", "x" * (1 << 20)):
            with pytest.raises(OptionError, match="takes the name of a model"):
                dynamo_genie.load_weights(nn.Linear(5, 3), wrong, device=D)  # type: ignore[arg-type]
        a_linear(root)
        dynamo_genie.load_weights(nn.Linear(5, 3), Path("linear.safetensors"), device=D)
        later = there * 2
        with session().lock:
            session().post(m.DescribeModel(session().request_id(), Path("x"), 0))  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                session().flush()
        assert later.tolist() == [4.0, 4.0]  # what was queued with it is sent
        assert (later + there).tolist() == [6.0, 6.0]


def a_daemon_without_models_says_how_to_offer_some(root: Path) -> None:
    with RealDaemon() as daemon:
        dynamo_genie.connect(daemon.endpoint)
        with pytest.raises(ModelFileError, match="start it with --model-dir DIR"):
            dynamo_genie.load_weights(nn.Linear(5, 3), "linear.safetensors", device=D)
        dynamo_genie.shutdown()


class WithTable(nn.Module):
    """A model whose table is in no file, and that does not know how to make it again."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.register_buffer("table", torch.arange(3.0), persistent=False)


class MakesIt(WithTable):
    """One that does."""

    def _init_weights(self, module: nn.Module) -> None:
        if module is self:
            self.table.copy_(torch.arange(3.0))
            for parameter in self.parameters():
                parameter.normal_()


class MakesHalf(WithTable):
    """One that forgets a part."""

    def _init_weights(self, module: nn.Module) -> None:
        self.table[:2] = torch.arange(2.0)


def buffers_on_meta_that_no_file_has_are_made_by_the_model_or_refused(root: Path) -> None:
    write_file(root / "m.safetensors", {"linear.weight": torch.ones(3, 5), "linear.bias": torch.ones(3)})
    with serving(root):
        for kind in (WithTable, MakesHalf):
            model = on_meta(kind)
            with pytest.raises(ModelFileError, match=r"'table' is on meta.*include_buffers=False"):
                dynamo_genie.load_weights(model, "m.safetensors", device=D)
            assert model.table.is_meta
            assert model.linear.weight.is_meta
        made = on_meta(MakesIt)
        state = torch.random.get_rng_state()
        dynamo_genie.load_weights(made, "m.safetensors", device=D)
        assert torch.equal(torch.random.get_rng_state(), state)
        real = on_meta(WithTable)
        real.table = torch.arange(3.0)
        dynamo_genie.load_weights(real, "m.safetensors", device=D)
        weighty = MakesIt()
        weighty.table = weighty.table.to("meta")
        weighty.extra = nn.Parameter(torch.arange(4.0))
        dynamo_genie.load_weights(weighty, "m.safetensors", device=D, strict=False)
        assert weighty.extra.tolist() == [0, 1, 2, 3], "what the model had is not made anew"
        for model in (made, real, weighty):
            assert model.table.device == torch.device(D)
            assert model.table.tolist() == [0, 1, 2]


def a_hostile_file_is_refused_and_the_worker_lives(root: Path) -> None:
    (root / "bad").mkdir()
    stored = a_linear(root)
    data = (root / "linear.safetensors").read_bytes()
    with serving(root) as daemon:
        for bad in (b"", b"\xff" * 8, data[:-1], data + b"\0", b"\0" * 64, data[:20], b"\x40" + data[1:]):
            (root / "bad" / "model.safetensors").write_bytes(bad)
            with pytest.raises(ModelFileError, match="is no safetensors file that can be read"):
                dynamo_genie.load_weights(nn.Linear(5, 3), "bad", device=D)
        worker = daemon.worker()
        model = nn.Linear(5, 3)
        dynamo_genie.load_weights(model, "linear.safetensors", device=D)
        assert torch.equal(model.weight.detach().cpu(), stored["weight"])
        assert daemon.worker() == worker


def what_does_not_fit_in_memory_is_refused_and_takes_nothing(root: Path) -> None:
    write_file(root / "large.safetensors", {"weight": torch.ones(8 << 20), "bias": torch.ones(8 << 20)})

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.empty(8 << 20)), nn.Parameter(torch.empty(8 << 20))

    with serving(root, memory_limit="60MiB"):
        model = on_meta(Large)
        with pytest.raises(QuotaExceeded, match=r"a weight needs 33,554,432 bytes .*--memory-limit"):
            dynamo_genie.load_weights(model, "large.safetensors", device=D)
        assert model.weight.is_meta
        dynamo_genie.load_weights(model, "large.safetensors", device=D, dtype=torch.float16)
        assert model.weight.dtype == torch.float16
        assert model.weight[-3:].tolist() == [1, 1, 1]


# --- models that the client has --------------------------------------------------------------------------------


def a_model_that_moves_to_the_device_is_not_sent_where_the_daemon_has_it(root: Path) -> None:
    source = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 300))
    write_file(root / "m.safetensors", {name: tensor.detach() for name, tensor in source.state_dict().items()})
    original = source[0].weight.detach().clone()
    data = torch.randn(4, 300)
    with serving(root) as daemon:
        assert eventually(lambda: bool(list((root / FOLDER).glob("*.digests"))))
        there, twin, other = copy.deepcopy(source), copy.deepcopy(source), copy.deepcopy(source)
        with torch.no_grad():
            other[0].weight.add_(1)
        alias = there[1].weight.data
        for model in (there, twin):
            model.to(D)
        assert sum(sent()["sent"].values()) < 20_000
        other.to(D)
        assert sum(sent()["sent"].values()) > 300 * 200 * 4
        batch = data.to(D)
        for model, inputs in ((source, data), (there, batch)):
            model(inputs).square().sum().backward()
            torch.optim.SGD(model.parameters(), lr=0.01).step()
        for _ in range(2):
            assert torch.equal(there(batch).detach().cpu(), source(data).detach())
            assert torch.equal(twin[1].weight.detach().cpu(), alias)
            assert torch.equal(other[1].weight.detach().cpu(), alias)
            daemon.kill_worker()
        with torch.no_grad():
            parameter, version = there[0].weight, there[0].weight._version
            parameter.copy_(nn.Parameter(original))
            assert torch.equal(parameter.cpu(), original)
            assert parameter.requires_grad
            assert parameter._version > version
            alias_there = twin[1].weight.data
            alias_there.copy_(nn.Parameter(torch.full((300, 200), 2.0)))
            twin[1].weight[0, 0] = 3
            assert twin[1].weight[0, :2].tolist() == alias_there[0, :2].tolist() == [3, 2]


def what_was_not_sent_and_is_gone_is_sent_after_a_death_if_it_is_as_it_was(root: Path) -> None:
    layers = [nn.Linear(300, 200, bias=False) for _ in range(2)]
    write_file(root / "m.safetensors", {str(i): layer.weight.detach() for i, layer in enumerate(layers)})
    with serving(root) as daemon:
        assert eventually(lambda: bool(list((root / FOLDER).glob("*.digests"))))
        there = [copy.deepcopy(layer) for layer in layers]
        here = [layer.weight.data for layer in there]
        for layer in there:
            layer.to(D)
        assert sum(sent()["sent"].values()) < 20_000
        (root / "m.safetensors").unlink()
        with torch.no_grad():
            here[1].zero_()  # the memory that was moved from
        daemon.kill_worker()
        assert torch.equal(there[0].weight.detach().cpu(), layers[0].weight.detach())
        with pytest.raises(NotRecoverable, match="because the daemon had it, and it is not there any more"):
            there[1].weight.detach().cpu()


# --- deaths, and files that change -----------------------------------------------------------------------------


def what_was_loaded_and_trained_survives_its_worker(root: Path) -> None:
    source = nn.Linear(5, 3)
    write_file(root / "m.safetensors", {name: tensor.detach() for name, tensor in source.state_dict().items()})
    data = torch.randn(4, 5)
    with serving(root) as daemon:
        there, untouched = on_meta(lambda: nn.Linear(5, 3)), on_meta(lambda: nn.Linear(5, 3))
        for model in (there, untouched):
            dynamo_genie.load_weights(model, "m.safetensors", device=D)
        view = there.weight.detach()[0]
        batch = data.to(D)
        for model, inputs in ((source, data), (there, batch)):
            for _ in range(2):
                model.zero_grad()
                model(inputs).square().sum().backward()
                torch.optim.SGD(model.parameters(), lr=0.1).step()
        for _ in range(2):
            daemon.kill_worker()
            assert torch.equal(there.weight.detach().cpu(), source.weight.detach())
            assert torch.equal(view.cpu(), source.weight.detach()[0])
            assert torch.equal(there(batch).detach().cpu(), source(data).detach())
            assert not torch.equal(untouched.weight.detach().cpu(), source.weight.detach())
        assert sent()["recoveries"] == 2
        assert sent()["sent"]["weight"] == 0


def a_worker_that_dies_before_it_answers_is_asked_again(root: Path) -> None:
    stored = a_linear(root)
    with serving(root) as daemon:
        dynamo_genie.load_weights(nn.Linear(5, 3), "linear.safetensors", device=D)
        daemon.kill_worker()
        model = nn.Linear(5, 3)
        dynamo_genie.load_weights(model, "linear.safetensors", device=D)
        assert torch.equal(model.weight.detach().cpu(), stored["weight"])


def a_file_that_was_replaced_is_read_anew_and_not_taken_for_what_it_was(root: Path) -> None:
    old = a_linear(root)
    with serving(root) as daemon:
        first = on_meta(lambda: nn.Linear(5, 3))
        dynamo_genie.load_weights(first, "linear.safetensors", device=D)
        new = a_linear(root)
        second = on_meta(lambda: nn.Linear(5, 3))
        dynamo_genie.load_weights(second, "linear.safetensors", device=D)
        assert torch.equal(first.weight.detach().cpu(), old["weight"])
        assert torch.equal(second.weight.detach().cpu(), new["weight"])
        daemon.kill_worker()
        with pytest.raises(NotRecoverable, match=r"'weight' of the model 'linear.safetensors' is not what it was"):
            first.weight.detach().add(1).cpu()
        assert torch.equal(second.weight.detach().cpu(), new["weight"])
        (root / "linear.safetensors").unlink()
        daemon.kill_worker()
        with pytest.raises(ModelFileError, match=r"has no model 'linear.safetensors'"):
            second.weight.detach().add(1).cpu()


def other_contents_of_the_same_session_survive_a_file_that_is_gone(root: Path) -> None:
    a_linear(root)
    kept = a_linear(root, "kept.safetensors")
    with serving(root) as daemon:
        lost, stays = nn.Linear(5, 3), nn.Linear(5, 3)
        dynamo_genie.load_weights(lost, "linear.safetensors", device=D)
        dynamo_genie.load_weights(stays, "kept.safetensors", device=D)
        (root / "linear.safetensors").unlink()
        daemon.kill_worker()
        assert torch.equal(stays.weight.detach().cpu(), kept["weight"])


SLOW = (
    "a_llama_without_tied_weights_does_too",
    "a_gpt2_with_other_dtype_and_tied_weights_is_what_torch_casts",
    "a_model_with_memory_is_filled_and_moved_whole_and_trains",
    "two_loads_of_one_model_share_its_memory",
    "each_of_several_daemons_has_models_of_its_own",
    "a_model_that_moves_to_the_device_is_not_sent_where_the_daemon_has_it",
    "what_was_not_sent_and_is_gone_is_sent_after_a_death_if_it_is_as_it_was",
    "a_worker_that_dies_before_it_answers_is_asked_again",
    "other_contents_of_the_same_session_survive_a_file_that_is_gone",
    "what_does_not_fit_in_memory_is_refused_and_takes_nothing",
)
"""Those that are left to the slow tests."""

CHECKS = {
    name: check
    for name, check in globals().items()
    if callable(check)
    and getattr(check, "__module__", "") == __name__
    and not name.startswith("_")
    and not isinstance(check, type)
    and name not in ("serving", "a_linear", "on_meta", "sent", "generated", "session", "eventually")
}
"""All of them, by name."""


def main(names: list[str]) -> int:
    """Run some; return how many failed."""
    dynamo_genie.register_device()
    torch.set_num_threads(1)
    failed = 0
    for name in names:
        torch.manual_seed(0)
        try:
            with tempfile.TemporaryDirectory() as folder:
                CHECKS[name](Path(folder))
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  # the others are to be run, too
            failed += 1
            print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
    return failed


if __name__ == "__main__":
    chosen = {"fast": [name for name in CHECKS if name not in SLOW], "slow": list(SLOW)}
    sys.exit(main(chosen.get(" ".join(sys.argv[1:])) or sys.argv[1:] or list(CHECKS)))
