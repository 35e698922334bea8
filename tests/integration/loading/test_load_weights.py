"""Models filled with weights that a daemon has in files, `genie models`, and what a client need not send for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamo_genie
from dynamo_genie.remote_daemon.model_files.digest_index import FOLDER
from dynamo_genie.remote_daemon.supervisor.keys import create_client_keys, create_server_keys
from tests.integration.real_daemon import RealDaemon, SimulatedDaemon, environment, eventually, run_interpreter
from tests.remote_daemon.model_files.written import write_file, write_shards

pytestmark = pytest.mark.skipif(
    os.environ.get("GENIE_TEST_BACKEND", "genie") != "genie", reason="about tensors in daemons"
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("which", ["fast", pytest.param("slow", marks=pytest.mark.slow)])
def test_all_checks_hold_in_a_process_with_the_device(which: str) -> None:
    print(run_interpreter("-W", "ignore", "-m", "tests.integration.loading.checks", which, limit_s=580))


# --- what is not sent ----------------------------------------------------------------------------------------


def a_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 16)).requires_grad_(False)


def stored(model: nn.Module, path: Path) -> Path:
    return write_file(path, {name: tensor.detach() for name, tensor in model.state_dict().items()})


def indexed(root: Path, count: int) -> bool:
    return eventually(lambda: len(list((root / FOLDER).glob("*.digests"))) == count)


def sent_weights(daemon: RealDaemon, key_file: str | None = None) -> int:
    """Call the model in a session of its own, compiled and from the CPU; return how many bytes of weights were sent."""
    model, data = a_model(), torch.ones(2, 256)
    options = {"daemons": [daemon.endpoint], **({"key_file": key_file} if key_file else {})}
    found = torch.compile(model, backend="genie", options=options)(data)
    assert torch.equal(dynamo_genie.to_local(found), model(data))
    nbytes: int = dynamo_genie.stats()["total"]["sent"]["weight"]
    dynamo_genie.shutdown()
    torch._dynamo.reset()
    return nbytes


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", [RealDaemon, SimulatedDaemon])
def test_a_model_that_lies_in_a_file_of_the_daemon_is_not_sent(tmp_path: Path, kind: type[RealDaemon]) -> None:
    stored(a_model(), tmp_path / "mine" / "model.safetensors")
    with kind(more=["--model-dir", str(tmp_path)]) as daemon:
        assert indexed(tmp_path, 1)
        assert sent_weights(daemon) == 0
        daemon.kill_worker()
        assert sent_weights(daemon) == 0


@pytest.mark.timeout(240)
def test_a_file_that_was_changed_since_is_not_believed_and_a_cache_beside_it_keeps_what_was_sent(
    tmp_path: Path,
) -> None:
    root, cache = tmp_path / "models", tmp_path / "weights"
    path = stored(a_model(), root / "model.safetensors")
    with RealDaemon(more=["--model-dir", str(root), "--weight-cache", str(cache)]) as daemon:
        assert indexed(root, 1)
        assert sent_weights(daemon) == 0
        assert not list(cache.glob("*/*.weight")), "what lies in a file is not kept twice"
        write_file(path, {"a": torch.ones(3)})
        daemon.kill_worker()
        assert sent_weights(daemon) > 256 * 256 * 4
        assert eventually(lambda: len(list(cache.glob("*/*.weight"))) == 4)
        daemon.kill_worker()
        assert sent_weights(daemon) == 0


@pytest.mark.timeout(240)
def test_where_the_directory_cannot_be_written_the_index_lasts_as_long_as_the_daemon(tmp_path: Path) -> None:
    stored(a_model(), tmp_path / "model.safetensors")
    (tmp_path / FOLDER).write_text("in the way")
    with RealDaemon(more=["--model-dir", str(tmp_path)]) as daemon:
        assert eventually(lambda: sent_weights(daemon) == 0)
        assert "its index lasts as long as the daemon" in daemon.log()
    assert (tmp_path / FOLDER).read_text() == "in the way"


@pytest.mark.timeout(240)
def test_every_key_may_read_the_models_and_nobody_write_them(tmp_path: Path) -> None:
    root = tmp_path / "models"
    stored(a_model(), root / "model.safetensors")
    server = create_server_keys(tmp_path / "keys")
    keys = [str(create_client_keys(server, name)) for name in ("mine", "theirs")]
    with RealDaemon(keys=tmp_path / "keys", more=["--model-dir", str(root)]) as daemon:
        assert indexed(root, 1)
        assert [sent_weights(daemon, key) for key in keys] == [0, 0]


# --- genie models --------------------------------------------------------------------------------------------


def genie(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynamo_genie.cli", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.timeout(240)
def test_genie_models_lists_what_there_is_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    half, whole = {"a": torch.ones(4).half(), "b": torch.ones(2)}, {"c": torch.ones(8)}
    write_shards(tmp_path / "one" / "llama", {"model-1.safetensors": half, "model-2.safetensors": whole})
    for count in range(40):
        write_file(tmp_path / "many" / f"{count:02}.safetensors", whole)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "bad.safetensors").write_bytes(b"x" * 100)
    directories = [argument for name in ("one", "two", "many") for argument in ("--model-dir", str(tmp_path / name))]
    with RealDaemon(more=directories) as daemon:
        listed = json.loads(genie("models", "--json", "--endpoint", daemon.endpoint).stdout)
        assert [model["name"] for model in listed] == [
            *(f"{n:02}.safetensors" for n in range(40)),
            "bad.safetensors",
            "llama",
        ]
        bad, llama = listed[-2:]
        assert "is no safetensors file that can be read" in bad["problem"]
        assert llama["dtypes"] == [["float16", 1], ["float32", 2]]
        assert [llama[name] for name in ("files", "tensors", "nbytes", "problem")] == [2, 3, 48, ""]
        shown = genie("models", "--endpoint", daemon.endpoint).stdout
        assert "float16 (1), float32 (2)" in shown
        assert "cannot be loaded: bad.safetensors is no safetensors file" in shown


@pytest.mark.timeout(240)
def test_genie_models_says_where_none_are_offered_and_where_no_daemon_is() -> None:
    with RealDaemon() as daemon:
        done = genie("models", "--endpoint", daemon.endpoint)
        assert done.returncode == 0
        assert "no models; a daemon offers those below its --model-dir" in done.stdout
    done = genie("models", "--endpoint", daemon.endpoint)
    assert done.returncode == 1
    assert "no daemon answered" in done.stderr


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    done = genie("daemon", "--model-dir", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "name a directory with safetensors files" in done.stderr
