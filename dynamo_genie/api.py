"""The functions beside the backend: connect early, count bytes, force a look at the weights, shut down."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import asdict
from operator import itemgetter
from typing import Any

import torch

from dynamo_genie.connections.connection import Connection
from dynamo_genie.connections.connections import CONNECTIONS
from dynamo_genie.device import register
from dynamo_genie.errors import OptionError
from dynamo_genie.loading.slots import LoadedWeights
from dynamo_genie.options import resolve_options
from dynamo_genie.runtime.session.counters import Counters
from dynamo_genie.tensor.remote_tensor import RemoteTensor
from dynamo_genie.tensor.to_local import ToLocal
from dynamo_genie.torch_internals.opaque import opaque
from dynamo_genie.torch_internals.pytree import tree_leaves, tree_map_only

log = logging.getLogger(__name__)


@opaque
def connect(daemons: str | list[str] | None = None, **options: object) -> dict[str, Any]:
    """Open the session that compiled functions with the same options will use, and describe its daemon.

    Optional: the first call of a compiled function does it too. Use it to fail early, or to start the embedded
    daemon before it is needed.

    Daemons that are named here are those of the device `remote_accelerator` too, unless it is in use already.

    Args:
        daemons: Endpoint(s); None means `GENIE_DAEMONS`, else an embedded daemon.
        **options: The other fields of `dynamo_genie.options.Options`.

    Returns:
        Endpoint, device, memory limit in bytes, and the daemon's torch version; of several daemons the first one's,
        with all of them under "daemons" and the links between them, in seconds and bytes per second, under "links".

    Raises:
        DaemonUnavailable: No daemon answers.
    """
    given = options if daemons is None else {"daemons": daemons, **options}
    resolved = resolve_options(given, os.environ)
    if "daemons" in given:
        register.use(resolved)
    if not resolved.several:
        return _describe(CONNECTIONS.get(resolved))
    fleet = CONNECTIONS.fleet(resolved)
    found = [_describe(connection) for connection in fleet.connections]
    return {**found[0], "daemons": found, "links": [asdict(link) for link in fleet.links]}


def _describe(connection: Connection) -> dict[str, Any]:
    device = connection.session.device
    return {
        "endpoint": connection.endpoint,
        "device": f"{device.kind} {device.name}",
        "memory_limit": device.memory_limit,
        "torch_version": device.torch_version,
    }


@opaque
def stats() -> dict[str, Any]:
    """Return bytes on the wire by tensor class, calls, fetches and round trips, per daemon and in total.

    Counts what this process handed to its sockets since the start or `reset_stats()`, without ZeroMQ's framing,
    which is counted apart, and without the network's. `live_handles` counts remote tensors that are still named.
    "client_operators" tells how often each operator ran on the client because no daemon has it, by its name and line,
    and `client_calls` how often that was together.
    """
    daemons = {connection.endpoint: _stats_of(connection) for connection in CONNECTIONS.all()}
    nothing = {**Counters().snapshot(), "live_handles": 0}  # every figure is there before anything is connected
    here = CONNECTIONS.client_work.runs()
    total = {**_total([nothing, *daemons.values()]), "client_calls": sum(here.values())}
    return {"total": total, "daemons": daemons, "client_operators": here}


@opaque
def reset_stats() -> None:
    """Start counting from zero."""
    CONNECTIONS.client_work.reset()
    for connection in CONNECTIONS.all():
        connection.session.counters.reset()


@opaque
def refresh(model: torch.nn.Module) -> None:
    """Compare every parameter and buffer with the daemon's copy by content, and send what differs.

    Only needed with the option `untracked_weights="sample"`, where weights were changed behind PyTorch's back and the
    kernel could not tell.
    """
    if not isinstance(model, torch.nn.Module):
        raise OptionError(f"refresh() takes the model whose weights changed, a torch.nn.Module, not {model!r:.100}")
    tensors = [*model.parameters(), *model.buffers()]
    for connection in CONNECTIONS.all():
        with connection.session.lock:
            connection.weights.refresh(tensors)


@opaque
def load_weights(
    model: torch.nn.Module,
    name: str | os.PathLike[str],
    *,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
    progress: bool = True,
) -> LoadedWeights:
    """Fill a model, on `meta` or anywhere, with weights that the daemon has in safetensors files; none of them crosses.

    Its parameters and buffers become tensors on `device`, tied ones tied as before. What the file lacks and the model
    has real is moved there; buffers on `meta` that no file has are made by the model's `_init_weights`.

    Args:
        name: A model below the daemon's `--model-dir`: a folder, or one file. `genie models` lists them.
        device: Where it shall live, `remote_accelerator:N`; the current device by default.
        dtype: In what floating point numbers are held; as in the file by default.
        strict: Whether names that are missing in the file, or that the model does not have, are an error.
        progress: Whether to show a bar, on a terminal and where it takes long.

    Returns:
        The names that are missing in the file, and those that the model does not have.

    Raises:
        ModelFileError: There is no such model, its files are no good, or it does not fit.
        OptionError: An argument is not what it should be.
        QuotaExceeded: There is no room for it in the daemon.
    """
    from dynamo_genie.loading.load_weights import load_weights as load  # the device is not in every torch

    return load(model, name, device=device, dtype=dtype, strict=strict, progress=progress)


@opaque
def to_local(tree: Any) -> Any:
    """Return a copy of nested containers in which every result that lives in a daemon is a plain tensor.

    All values come in one round trip a daemon. Gradients flow through to the results; memory that two of them share
    is not shared by their copies.

    Args:
        tree: A tensor, or lists, tuples, dictionaries and other containers that `torch.utils._pytree` knows.
    """
    results = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, RemoteTensor)]
    local = iter(ToLocal.apply(*results) if results else ())  # type: ignore[no-untyped-call]
    return tree_map_only(RemoteTensor, lambda _: next(local), tree)


@opaque
@opaque
def synchronize() -> None:
    """Wait until the daemons have run everything so far, and raise the first error that nobody was told of.

    Errors in a daemon are raised when something is read that was computed from them; this asks for all that nobody has
    read. Of several the one that was called first is raised, and the others are logged; each is raised here once.
    """
    sessions = [connection.session for connection in CONNECTIONS.all() if connection.alive]
    for session in sessions:  # all run before one of them is waited for
        with session.lock:
            session.flush()
    found = [error for session in sessions if (error := session.settle()) is not None]
    found.sort(key=itemgetter(0))
    for _, later in found[1:]:
        log.warning("a call failed in a daemon, after the one whose error is raised: %s", later)
    if found:
        raise found[0][1]


def register_device() -> None:
    """Give PyTorch the device `remote_accelerator`, where `import torch` did not.

    It does, unless torch finds an accelerator of its own on this machine, or is told not to look for other packages'
    devices (`TORCH_DEVICE_BACKEND_AUTOLOAD=0`). Ours then counts as the process's accelerator.

    Raises:
        RuntimeError: The process has another device that PyTorch does not know; there can be one.
    """
    register.register_device()


def shutdown() -> None:
    """Close every session and stop the embedded daemon; the next compiled call opens new ones."""
    CONNECTIONS.shutdown()


def _stats_of(connection: Connection) -> dict[str, Any]:
    session = connection.session
    return {**session.counters.snapshot(), "live_handles": session.live_handles}


def _total(parts: list[dict[str, Any]]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()
    for part in parts:
        total.update({name: value for name, value in part.items() if isinstance(value, int)})
        sent.update(part["sent"])
        received.update(part["received"])
    return {**total, "sent": dict(sent), "received": dict(received)}
