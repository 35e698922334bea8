"""One client's session on a worker: each command changes the handle table, some are answered.

Sans-IO: `WorkerSession.execute` takes a command and returns its reply; it touches no socket, and its command stream
keeps the order. A failed command poisons what it should have made or written, and whatever is computed from that fails
with the same first error; nothing else does. What failed without an answer is told beside the next answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from dynamo_genie.errors import ProgramCancelled
from dynamo_genie.remote_daemon.memory.kv_arena import ArenaCounts
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory, let_go
from dynamo_genie.remote_daemon.memory.session_share import SessionShare
from dynamo_genie.remote_daemon.memory.weight_store import ResidentWeight
from dynamo_genie.remote_daemon.transfer.staging import Staging
from dynamo_genie.remote_daemon.worker.command_stream import Outcome
from dynamo_genie.remote_daemon.worker.device_loss import device_is_lost
from dynamo_genie.remote_daemon.worker.failures import state_after
from dynamo_genie.remote_daemon.worker.handle_table import HandleTable
from dynamo_genie.remote_daemon.worker.late_failures import FailureLog
from dynamo_genie.remote_daemon.worker.session_calls import SessionCalls
from dynamo_genie.remote_daemon.worker.session_fetches import SendSnapshot, SessionFetches
from dynamo_genie.remote_daemon.worker.session_inputs import SessionInputs
from dynamo_genie.remote_daemon.worker.session_peers import PeerPort, SessionPeers
from dynamo_genie.remote_daemon.worker.session_weights import SessionWeights
from dynamo_genie.remote_daemon.worker.state import WorkerState
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.tensors import spec_of


class WorkerSession:
    """The session of one client: handles, programs, bindings, and what failed.

    Attributes:
        running: Whether a command of this session runs: it keeps all its tensors meanwhile.
        last_used: When one did last, on the clock of those who call `execute`.
        host_budget: Where it counts what it keeps beside tensors.
        lost_device: What a command of this session did to the device, where the worker cannot go on after it.
        commands: What runs each command.
    """

    def __init__(self, state: WorkerState, staging: Staging, send_bulk: SendSnapshot, port: PeerPort) -> None:
        self._state = state
        self.host_budget = state.host_budget
        self.staging = staging
        share = staging.share
        if state.host is not None:  # what is staged lies in another memory
            share = SessionShare.of(state.budget.limit, state.session_share)
        self.handles = HandleTable(state.budget, state.weights, state.arenas, state.host, state.host_budget, share)
        self.arena_counts = ArenaCounts()
        self._inputs = SessionInputs(self.handles, state.buffers, state.host_budget)
        self._weights = SessionWeights(state.weights, staging, self.handles, state.models)
        self._peers = SessionPeers(port, self.handles, state.buffers, state.host_budget)
        self._calls = SessionCalls(state, staging, self.handles, self._inputs)
        self._fetches = SessionFetches(self.handles, state, send_bulk)
        self._failures = FailureLog()
        self.running = False
        self.last_used = 0.0
        self.lost_device = ""
        self.commands: Mapping[type, Callable[[Any], Outcome]] = {
            m.Call: self._calls.call,
            m.Free: self._free,
            m.Fetch: self._fetches.fetch,
            m.Put: self._put,
            m.SendTensor: self._peers.send,
            m.ReceiveTensor: self._peers.receive,
            m.RegisterProgram: self._calls.register,
            m.BindWeights: self._bind,
            m.PutUploaded: self._put_uploaded,
            m.QueryWeights: self._weights.query,
            m.StoreWeight: self._weights.store,
            m.AdoptWeight: self._weights.adopt,
            m.PatchWeight: self._patch_weight,
            m.LoadWeights: self._weights.load,
            m.ListModels: self._weights.list_models,
            m.DescribeModel: self._weights.describe_model,
            m.Describe: self._describe,
            m.Save: self._fetches.save,
            m.Sync: self._sync,
            m.Inspect: self._inspect,
        }
        if state.host is not None:  # else there is nowhere to offload to, and uploads make room from another thread
            state.offloader.add_session(self)

    @property
    def calls(self) -> int:
        """How many calls ran."""
        return self._calls.count

    @property
    def resident_nbytes(self) -> int:
        """Bytes of own tensors in the device's memory."""
        return self.handles.resident_nbytes

    def offload(self, enough: Callable[[], bool]) -> None:
        """Move own tensors to host memory, the largest first, until there is enough room or none may go."""
        self.handles.offload(enough)
        self._inputs.drop_moved()

    def weights(self) -> list[ResidentWeight]:
        """Return the weights in use, one item for each use."""
        return [*self.handles.weights(), *self._weights.held]

    def drop_tensor(self, weight: ResidentWeight) -> None:
        """Drop the tensor of a weight that was offloaded."""
        self.handles.drop_tensor(weight)
        self._inputs.drop_moved()

    def close(self) -> None:
        """Free everything the session holds."""
        self.staging.close()
        self._state.offloader.remove_session(self)
        self._weights.drop_held()
        self._calls.close()
        self._inputs.close()
        self.handles.clear()

    def execute(self, command: m.Command, now: float, *, overdue: bool) -> Outcome:
        """Run a command and return its reply, if it has one; every failure becomes a record for the client."""
        before = self._state.arenas.counts
        self.running, self.last_used = True, now
        self._state.served.commands += 1
        try:
            if overdue and isinstance(command, m.ReceiveTensor):
                raise self._peers.give_up(command)
            return self.commands[type(command)](command)
        except Exception as error:  # noqa: BLE001 - every failure becomes a record for the client
            return self._fail(command, error)
        finally:
            self.running = False
            if self._state.arenas.counts is not before:
                self.arena_counts = self.arena_counts.plus(self._state.arenas.counts).plus(before, -1)

    def cancel(self, command: m.Command, now: float, *, overdue: bool) -> Outcome:
        """Run a command that nobody waits for any more, or let it fail: a call that writes to no input."""
        if isinstance(command, m.Call) and not self.writes(command):
            return self._fail(command, ProgramCancelled())
        return self.execute(command, now, overdue=overdue)

    def writes(self, command: m.Command) -> bool:
        """Whether a command may write to what others have; for any thread."""
        return not isinstance(command, m.Call) or self._calls.writes(command)

    def take_news(self) -> m.WorkerToClient | None:
        """Return what failed without an answer since the last time."""
        return self._failures.take()

    def _fail(self, command: m.Command, error: Exception) -> m.Failed | None:
        """Poison what a failed command should have made, and return its answer, if it has one."""
        if is_out_of_memory(error):
            let_go(error)  # what is to be said of it takes memory too
        request_id = getattr(command, "request_id", 0)
        lost = device_is_lost(error)
        failure = self._failures.record(error, command, self._calls.taken, answered=bool(request_id) or lost)
        if lost:
            self.lost_device = failure.message.splitlines()[0]
            return m.Failed(request_id, failure)  # answered even where nothing is asked: there is no later answer
        self._poison(command, failure)
        if failure.kind == "OutOfMemoryError":
            self._state.buffers.reclaim()
        return m.Failed(request_id, failure, state_after(error)) if request_id else None

    def _poison(self, command: m.Command, error: m.ErrorInfo) -> None:
        """Let everything fail with `error` that a failed command should have made or changed."""
        match command:
            case m.Call():
                self._calls.poison(command, error)
            case m.Put() | m.PutUploaded() | m.AdoptWeight() | m.ReceiveTensor():
                self.handles.poison(command.handle, error)
            case m.LoadWeights():
                for handle in command.handles:
                    self.handles.poison(handle, error)
            case m.PatchWeight():
                self.handles.spoil(command.handle, error)
            case m.RegisterProgram():
                self._calls.refuse(command, error)
            case m.BindWeights():
                self._inputs.refuse(command, error)
            case m.SendTensor():
                self._peers.send_error(command, error)

    def _free(self, command: m.Free) -> None:
        if self.handles.lent:
            self.handles.take_back_ended()
        for handle in command.handles:
            self.handles.drop(handle)
        self.handles.pay_back()
        self._inputs.drop_moved()

    def _put(self, command: m.Put) -> None:
        self.handles.add(command.handle, self._inputs.inline(command.tensor))

    def _put_uploaded(self, command: m.PutUploaded) -> None:
        upload = self.staging.claim(command.upload)
        self.handles.add(command.handle, self._state.buffers.adopt(command.spec, upload.memory))

    def _bind(self, command: m.BindWeights) -> None:
        self._weights.drop_held()  # what was asked for and stored has its handles by now
        self._calls.bind(command)

    def _patch_weight(self, command: m.PatchWeight) -> None:
        upload = self.staging.claim(command.upload)
        self.handles.before_write((command.handle,))
        self._state.buffers.patch(self.handles.writable(command.handle), command.offset, upload.memory)

    def _sync(self, command: m.Sync) -> m.Done:
        if not command.timed:
            return m.Done(command.request_id)
        self._state.buffers.synchronize()
        return m.Done(command.request_id, time.monotonic_ns())

    def _describe(self, command: m.Describe) -> m.Described:
        return m.Described(
            command.request_id, tuple(spec_of(self.handles.detach_from_arena(h)) for h in command.handles)
        )

    def _inspect(self, command: m.Inspect) -> m.Inspection:
        state, traffic = self._state, self._peers.port.traffic
        return m.Inspection(
            command.request_id, state.budget.limit, state.budget.used, state.weights.unused_nbytes,
            traffic.sent, traffic.received, self.arena_counts.named(),
            self._calls.take_spans(), self._calls.engines() if command.engines else (),
        )  # fmt: skip
