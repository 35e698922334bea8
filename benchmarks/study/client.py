"""A client of the study, in a process of its own: one model in one mode, measured when it is told to.

`python -m dynamo_genie.bench.study.client` reads orders from standard input and answers on standard output, a line
each; what libraries print goes to standard error. It ends with its input.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import msgspec

from dynamo_genie.bench.alternate import seconds_of
from dynamo_genie.bench.machine import memory_kib, reset_peak_memory, use_one_thread
from dynamo_genie.bench.network import KeepAlives, read_counters
from dynamo_genie.bench.study.orders import MeasuredPhase, Order, Ready, Repeat, RepeatDone, Setup, Trouble
from dynamo_genie.errors import GenieError

if TYPE_CHECKING:
    from dynamo_genie.bench.study.workloads import Work

MINE = os.getpid()


def main() -> None:
    """Serve orders until there are no more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    use_one_thread()
    client: Client | None = None
    decoder = msgspec.json.Decoder(Order)
    for line in sys.stdin.buffer:
        try:
            order = decoder.decode(line)
            if isinstance(order, Setup):
                client = Client(order)
                _say(answers, client.ready())
            elif client is not None:
                _say(answers, client.repeat(order))
        except Exception as error:  # noqa: BLE001 - whatever it is, the runner must hear of it
            _say(answers, Trouble(f"{type(error).__name__}: {error}"))
    if client is not None:
        client.close()


def _say(answers: IO[bytes], answer: Ready | RepeatDone | Trouble) -> None:
    answers.write(msgspec.json.encode(answer) + b"\n")
    answers.flush()


class Client:
    """A compiled model and its work."""

    def __init__(self, setup: Setup) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self._setup = setup
        self._work, self._phases, self._parameters = (
            _inference(setup) if setup.task == "inference" else _training(setup)
        )
        self._keep_alives = KeepAlives() if setup.own_interfaces else None
        for _ in range(setup.warm_ups):
            self._all_phases(())
        self._graphs = self._compiled()
        reset_peak_memory(MINE)

    def ready(self) -> Ready:
        """Describe what was set up."""
        from dynamo_genie.connections.connections import CONNECTIONS
        from dynamo_genie.options import resolve_options
        from dynamo_genie.runtime.connect.admission import request_status
        from dynamo_genie.runtime.connect.keys import load_client_keys

        connections = CONNECTIONS.all()
        devices = {f"{c.session.device.kind} {c.session.device.name}".strip() for c in connections}
        key_file = resolve_options(None, os.environ).key_file
        keys = load_client_keys(key_file) if key_file else None
        pids = tuple(request_status(c.endpoint, keys, 10.0).workers[0].pid for c in connections)
        where = ", ".join(sorted(devices)) or self._setup.device
        return Ready(self._phases, where, pids, self._parameters, self._work.operators)

    def repeat(self, order: Repeat) -> RepeatDone:
        """Do the work once, each phase measured.

        Raises:
            GenieError: Something was compiled meanwhile, so that the figures would be those of a compiler.
        """
        while (left := order.start_at - time.monotonic()) > 0:
            time.sleep(left)
        phases = self._all_phases(order.lease_ports)
        if self._compiled() != self._graphs:
            raise GenieError("graphs were compiled during a measured repeat; more warm-up is needed")
        return RepeatDone(phases, tuple(self._work.answer), memory_kib(MINE, "VmHWM") * 1024)

    def close(self) -> None:
        """End the sessions."""
        import dynamo_genie

        dynamo_genie.shutdown()

    def _all_phases(self, lease_ports: tuple[int, ...]) -> tuple[MeasuredPhase, ...]:
        self._work.begin()
        return tuple(self._measured(phase, lease_ports) for phase in self._phases)

    def _measured(self, phase: str, lease_ports: tuple[int, ...]) -> MeasuredPhase:
        """Do one phase. Asking daemons moves bytes: they are asked first before it, and last after it."""
        peers, _ = _ask_daemons()
        stats = _stats()
        if self._keep_alives is not None:
            self._keep_alives.take(())
        counted = read_counters() if self._keep_alives is not None else None
        began = time.monotonic()
        steps = 1 if phase == "prefill" else self._setup.steps
        seconds = tuple(seconds_of(partial(self._work.step, phase)) for _ in range(steps))
        wall_s = time.monotonic() - began
        wire: tuple[int, ...] = read_counters() - counted if counted is not None else ()
        keep_alive_bytes = self._keep_alives.take(lease_ports) if self._keep_alives is not None else 0
        stats_after = _stats()
        peers_after, busy_s = _ask_daemons()
        return MeasuredPhase(
            seconds=seconds,
            sent=_difference(stats_after["sent"], stats["sent"]),
            received=_difference(stats_after["received"], stats["received"]),
            framing=sum(stats_after[name] - stats[name] for name in ("sent_framing", "received_framing")),
            peer_bytes=_difference(peers_after, peers),
            wire=wire,
            keep_alive_bytes=keep_alive_bytes,
            began=began,
            wall_s=wall_s,
            busy_s=wall_s if busy_s is None else busy_s,
        )

    @staticmethod
    def _compiled() -> int:
        from dynamo_genie.torch_internals.compile_context import graphs_compiled

        return graphs_compiled()


def _inference(setup: Setup) -> tuple[Work, tuple[str, ...], int]:
    """Return a model's work, its phases, and how many parameters it has; the model is compiled in the order's mode."""
    from dynamo_genie.backend import genie
    from dynamo_genie.bench.study.workloads import build_model, workload_of
    from dynamo_genie.tensors import TORCH_DTYPES

    workload = workload_of(setup.model)
    model = build_model(
        setup.model,
        dtype=TORCH_DTYPES[setup.dtype],
        device=setup.device,
        seed=setup.seed,
        longest=setup.prompt + setup.steps + 1,
    )
    model.compile(backend=genie, options={"mode": setup.mode, "progress": False, **setup.options})
    work = workload.work(model, model.config, setup.prompt, setup.seed, setup.device)
    return work, workload.phases, sum(parameter.numel() for parameter in model.parameters())


def _training(setup: Setup) -> tuple[Work, tuple[str, ...], int]:
    """Return the same of training, whose one phase has the task's name."""
    from dynamo_genie.bench.study.training import training_of

    work, parameters = training_of(setup)
    return work, (setup.task,), parameters


def _stats() -> dict[str, Any]:
    import dynamo_genie

    found: dict[str, Any] = dynamo_genie.stats()["total"]
    return found


def _ask_daemons() -> tuple[Counter[str], float | None]:
    """Return what went from daemon to daemon so far, and how long they computed since they were last asked."""
    from dynamo_genie.connections.connections import CONNECTIONS

    states = [connection.session.inspect() for connection in CONNECTIONS.all()]
    peer_bytes: Counter[str] = Counter()
    for state in states:
        peer_bytes.update(dict(state.peer_sent))
    busy_s = sum(ended - began for state in states for _, began, ended in state.spans) * 1e-9
    return peer_bytes, busy_s if states else None


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: change for name, n in after.items() if (change := n - before.get(name, 0))}


if __name__ == "__main__":
    main()
