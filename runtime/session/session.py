"""A session of the client with one worker: programs sent, tensors put there and read back, links to others.

A session is an identity (what it has named and sent) and an attachment (what leads to its worker at present), which
may be replaced. One lock makes each operation whole, so several threads may share a session; a forked child is
refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch

from dynamo_genie.engines import AUTO
from dynamo_genie.errors import DaemonUnavailable, ProtocolError, StaleHandleError
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.attachment.liveness import Liveness
from dynamo_genie.runtime.attachment.transport import BulkTransport, Transport
from dynamo_genie.runtime.recovery.held import Contents
from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.recovery.records import Sending
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.recovery.together import Together
from dynamo_genie.runtime.session.bulk import BulkConnection
from dynamo_genie.runtime.session.command_queue import CommandQueue
from dynamo_genie.runtime.session.identity import SessionIdentity
from dynamo_genie.runtime.session.inline import inline_tensor
from dynamo_genie.runtime.session.measured_link import MeasuredLink, measure_client_link
from dynamo_genie.runtime.session.retelling import Retelling
from dynamo_genie.runtime.session.save_results import shorten
from dynamo_genie.runtime.session.session_links import SessionLinks
from dynamo_genie.runtime.session.uploads import Uploads
from dynamo_genie.runtime.session.weight_commands import WeightCommands
from dynamo_genie.runtime.wire import messages as m
from dynamo_genie.runtime.wire.limits import MAX_CONTROL_NBYTES
from dynamo_genie.runtime.wire.tensor import InlineTensor, TensorSpec
from dynamo_genie.tensors import dense_for_wire, empty_like_spec, flat_bytes, spec_of, tensor_bytes
from dynamo_genie.torch_internals.opaque import unseen

T = TypeVar("T")


class Session:
    """A session: what the client has named on a worker, and what may be said there. Opened by `open_session`.

    Attributes:
        identity: What outlives attachments.
        attachment: What leads to the worker at present.
        counters, lock: The identity's.
        links: The ends of links to other daemons.
        weight_channel: What resident weights need.
        timeout_s: The limit of one wait.
        mint, request_id: Fresh ids for programs and bindings, fresh numbers for commands that are answered.
        post, flush, wait, ask, failure: Those of its queue of commands; the caller holds the lock.
        recovery: What takes another worker when this one is gone; None where the session ends with it.
        retelling: How that one is told.
        revive: Goes on at another worker where this one is gone, or one that was to send it something.
    """

    def __init__(
        self,
        attachment: Attachment,
        timeout_s: float,
        identity: SessionIdentity | None = None,
        *,
        reopen: Callable[[], Attachment] | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """Make a session on an attachment; with an identity, it goes on where that one is.

        Args:
            attachment: What leads to its worker.
            timeout_s: The limit of one wait.
            identity: What the session has named and sent already.
            reopen: Opens an attachment to another worker when this one is gone; None ends the session then.
            patience_s: How long to try that.
        """
        self.identity = identity = identity or SessionIdentity()
        self.attachment = attachment
        self.timeout_s = timeout_s
        self.counters = identity.counters
        self.lock = identity.lock
        self._ids = identity.ids
        self.recovery = (
            None if reopen is None else Recovery(attachment.welcome.device.kind, reopen, self._go_elsewhere, patience_s)
        )
        self._notes = None if self.recovery is None else self.recovery.notes
        self._bulk = BulkConnection(attachment, self.counters, timeout_s)
        self.links = SessionLinks(identity, self._bulk, self.recovery)
        self._commands = CommandQueue(
            attachment, identity, self.links.check_sources, self._bulk.cancel, timeout_s, self.recovery
        )
        self._uploads = Uploads(self._commands, self._bulk, identity)
        self.weight_channel = WeightCommands(self._commands, self._uploads, identity, self.recovery)
        if self._notes is not None:
            self.retelling = Retelling(self._notes, self._commands, self._uploads, self.weight_channel, self._ids)
            self.recover_with(Together())
        self.mint, self.request_id = self._ids.mint, self._ids.request
        self.post, self.flush, self.wait = self._commands.post, self._commands.flush, self._commands.wait
        self.ask, self.failure, self.revive = self._commands.ask, self._commands.failure, self._commands.revive

    def twin(self, control: Transport, bulk: BulkTransport) -> Session:
        """Return a session on other transports that has counted as far as this one and sent the same programs."""
        attachment = replace(self.attachment, control=control, bulk=bulk, liveness=Liveness(), release=lambda: None)
        twin = Session(attachment, self.timeout_s, self.identity.copy())
        twin._bulk.uploads = self._bulk.uploads
        return twin

    # --- life ----------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the session can be used by this process."""
        liveness = self.attachment.liveness
        return liveness.alive or (self.recovery is not None and self.recovery.going_on and not liveness.inherited)

    @property
    def attached(self) -> bool:
        """Whether its attachment leads anywhere."""
        return self.attachment.liveness.alive

    def whole(self, operation: Callable[[], T]) -> T:
        """Run an operation that can be begun again: it is, where a worker dies under it and another takes its place."""
        return operation() if self.recovery is None else self.recovery.whole(operation)

    def check(self) -> None:
        """Raise `StaleHandleError` if the session is over: what its handles name is gone."""
        if self.alive:
            return
        liveness = self.attachment.liveness
        if liveness.inherited:
            liveness.check()
        if (reason := liveness.reason) is not None:
            raise StaleHandleError(
                f"this tensor lived in a session that is over ({str(reason).splitlines()[0]}); compute it again: "
                "a compiled function opens a new session at its next call"
            ) from reason

    def attach(self, timeout_s: float) -> None:
        """Say on both connections which session this is; the worker lets nothing else through before."""
        self._bulk.attach(self._commands.attach(timeout_s))

    def reattach(self, attachment: Attachment, timeout_s: float) -> None:
        """Go on with another attachment to the worker that has this session; what was queued goes there."""
        with self.lock:
            self.attachment.close()
            self.attachment = self._commands.attachment = attachment
            self._bulk.use(attachment)
            self.attach(timeout_s)

    def close(self) -> None:
        """End the session; everything it holds on the daemon is freed. Closing twice is fine."""
        if self.attachment.liveness.inherited:  # its lock, too, may be held by a thread of the parent
            return
        with self.lock:
            if self.recovery is not None:
                self.recovery.going_on = False
            self.attachment.close()

    # --- going on elsewhere ----------------------------------------------------------------------------------

    def recover_with(self, others: Together[Session]) -> None:
        """Recover together with these sessions from now on."""
        if self.recovery is not None:
            self._together = others
            others.add(self)

    def _go_elsewhere(self, error: DaemonUnavailable) -> None:
        self._together.go_on(self, error)

    def begin_again(self, attachment: Attachment) -> None:
        """Go on over an attachment to a worker that knows nothing; `retelling` tells it what is to be known."""
        assert self._notes is not None
        before, now = (each.welcome.device for each in (self.attachment, attachment))
        if (before.kind, before.name, before.torch_version) != (now.kind, now.name, now.torch_version):
            self._notes.journal.give_up_calls(
                f"the next worker computes on {now.name} with torch {now.torch_version}, the one that ended did on "
                f"{before.name} with torch {before.torch_version}"
            )
        self.attachment.close()
        self.attachment = attachment
        self.identity.begin_again()
        self._commands.begin_again(attachment)
        self._bulk.begin_again(attachment)
        self.links.forget()
        self.attach(self.timeout_s)

    def recovered(self) -> None:
        """Note that another worker knows all that is to be known."""
        assert self.recovery is not None
        self.recovery.recovered()
        self.counters.events["recoveries"] += 1

    def save(self) -> None:
        """Have recent small results here, where others have sent something that they may be computed from."""
        if self._notes is not None and self._notes.journal.has_received:
            self._commands.save_now()

    def give_up_sources(self) -> None:
        """Wait for nothing more from workers that are gone."""
        self.links.dismiss_lost()

    # --- state -----------------------------------------------------------------------------------------------

    @property
    def device(self) -> m.DeviceInfo:
        """What the worker says of its device."""
        return self.attachment.welcome.device

    @property
    def live_handles(self) -> int:
        """How many remote tensors are still named."""
        return self._ids.live_handles

    def sync(self) -> None:
        """Wait until everything so far has run."""
        with self.lock:
            self._commands.sync()

    def clock(self) -> int:
        """Wait until everything so far has run on the device, and return the worker's clock then, in nanoseconds."""
        with self.lock:
            return self._commands.clock()

    def settle(self) -> tuple[float, Exception] | None:
        """Wait until everything so far has run; return the first error that nobody was told of, and when it was called.

        All others of the session are logged, and count as told.
        """
        with self.lock:
            error = self._commands.settle()
            if error is None:
                return None
            return self.identity.calls.made_at(error.call), self._commands.failure(error)

    # --- names ---------------------------------------------------------------------------------------------

    def new_handle(self) -> Handle:
        """Return a fresh handle; its last reference frees what it names."""
        return Handle(self._ids.mint_handle(), self, self._ids.dead)

    def unnamed_handle(self) -> Handle:
        """Return a handle that names nothing, for a tensor of this session whose memory came here."""
        return Handle(0, self, deque())

    def register(self, digest: bytes, encoded: bytes, lines: tuple[str | None, ...], engine: str = AUTO) -> int:
        """Return this session's number of a program that `engine` shall run, sending it when it is new."""
        programs = self.identity.programs
        number = programs.number(digest, engine)
        if number is not None:
            return number
        number = self.mint()
        if self._notes is not None:
            self._notes.journal.register(number, digest, encoded, engine)
        upload = 0
        if len(encoded) > MAX_CONTROL_NBYTES // 2:
            upload = self.upload(memoryview(encoded), "control")
            encoded = b""
        self.post(m.RegisterProgram(number, digest, encoded, upload, engine), len(encoded))
        programs.add(number, digest, engine, lines)
        return number

    # --- tensors -------------------------------------------------------------------------------------------

    def inline(self, tensor: torch.Tensor, kind: str = "input") -> InlineTensor | None:
        """Return a small local tensor as it travels inside a message, None when it is too large for that."""
        inline = inline_tensor(tensor)
        if inline is not None:
            self.counters.sent[kind] += len(inline.data)
            self.counters.sent["control"] -= len(inline.data)
        return inline

    def put(self, tensor: torch.Tensor, kind: str = "input") -> Handle:
        """Send a local tensor and return a handle to its copy on the daemon."""
        handle = self.new_handle()
        inline = self.inline(tensor, kind)
        if inline is not None:
            self.post(m.Put(handle.id, inline), len(inline.data))
        else:
            dense = dense_for_wire(tensor)
            upload = self.upload(tensor_bytes(dense), kind)
            if self._notes is not None:
                private = dense.untyped_storage()._cdata != tensor.untyped_storage()._cdata
                self._notes.journal.put(handle.id, Contents.of(dense, self._notes.journal.budget, private=private))
            self.post(m.PutUploaded(handle.id, spec_of(dense), upload))
        return handle

    def upload(self, view: memoryview, kind: str = "weight") -> int:
        """Send bytes by bulk and return the upload's number once all have arrived. The caller holds the lock."""
        return self.whole(lambda: self._uploads.send(view, kind))

    def fetch(self, handles: Sequence[int], kinds: Sequence[str]) -> list[torch.Tensor]:
        """Return local copies of the tensors with these ids, in one round trip, or raise the first one's error."""
        found: list[torch.Tensor] = []
        for each in self.fetch_each(handles, kinds):
            if isinstance(each, Exception):
                raise each
            found.append(each)
        return found

    def fetch_each(self, handles: Sequence[int], kinds: Sequence[str]) -> list[torch.Tensor | Exception]:
        """Return a local copy of each tensor with these ids, or its error, in one round trip."""
        self.check()  # before the lock, which a thread of the parent may hold for ever
        with self.lock:
            self.counters.events["fetches"] += 1
            if "gradient" in kinds:
                self._commands.save_recent(set(handles))  # the weights will change
            found = self.whole(lambda: self._bulk.over(lambda: self._fetch_each(handles, kinds)))
            if "gradient" in kinds and self.recovery is not None:
                self._together.weights_change(self)
            if self.recovery is not None and self.recovery.saving.due:
                shorten(self.recovery, self._commands, self._bulk)
            return found

    def _fetch_each(self, handles: Sequence[int], kinds: Sequence[str]) -> list[torch.Tensor | Exception]:
        request_id = self.request_id()
        self.post(m.Fetch(request_id, tuple(handles)))
        reply = self.wait(request_id)
        if not isinstance(reply, m.Fetched) or len(reply.tensors) != len(handles):
            raise ProtocolError(f"expected {len(handles)} fetched tensors, got {type(reply).__name__}")
        return [self._receive(tensor, kind) for tensor, kind in zip(reply.tensors, kinds, strict=True)]

    def _receive(self, fetched: m.FetchedTensor | m.ErrorInfo, kind: str) -> torch.Tensor | Exception:
        if isinstance(fetched, m.ErrorInfo):
            return self.failure(fetched)
        tensor = empty_like_spec(fetched.spec)
        if not (fetched.download or tensor.numel()):
            return tensor
        flat = flat_bytes(tensor)
        if fetched.download:
            self._bulk.download(fetched.download, flat, kind)
            return tensor
        if len(fetched.data) != flat.numel():
            raise ProtocolError(f"{len(fetched.data)} bytes came for a tensor of {flat.numel()}")
        flat.numpy().data[:] = fetched.data
        self.counters.received[kind] += len(fetched.data)
        self.counters.received["control"] -= len(fetched.data)
        return tensor

    def describe(self, handles: Sequence[Handle]) -> tuple[TensorSpec, ...]:
        """Return dtype, shape and strides of remote tensors, for those whose shape depends on data."""
        self.check()
        with self.lock:
            request_id = self.request_id()
            self.post(m.Describe(request_id, tuple(handle.id for handle in handles)))
            reply = self.wait(request_id)
            if not isinstance(reply, m.Described) or len(reply.specs) != len(handles):
                raise ProtocolError(f"expected {len(handles)} descriptions, got {type(reply).__name__}")
            return reply.specs

    # --- tensors of other sessions ---------------------------------------------------------------------------

    def send_tensor(self, handle: int, link: int, transfer: int, kind: str) -> Sending[Journal] | None:
        """Queue the sending of a tensor; the receiving session minted `transfer`. Nothing is answered.

        Returns the record by which the receiver can have it again; None where this session keeps no journal.
        """
        sending = None if self._notes is None else self._notes.journal.sending(handle, kind)
        self.post(m.SendTensor(handle, link, transfer, kind))
        return sending

    def receive_tensor(
        self, link: int, transfer: int, timeout_s: float, sending: Sending[Journal] | None = None
    ) -> Handle:
        """Queue the receiving of a tensor and return its handle; commands after it wait for it on the worker."""
        handle = self.new_handle()
        if self._notes is not None:
            self._notes.journal.receive(handle.id, sending)
        self.post(m.ReceiveTensor(handle.id, link, transfer, timeout_s))
        return handle

    # --- what placement asks ---------------------------------------------------------------------------------

    @property
    def bulk_endpoint(self) -> str:
        """Where this session's worker takes bulk data, as this client dials it."""
        return self._bulk.endpoint

    def measure_link(self) -> MeasuredLink:
        """Find out how fast the link between this client and the worker is; counted as control."""
        with self.lock:
            return self.whole(lambda: measure_client_link(self._round_trip, self._upload_and_discard))

    def _round_trip(self) -> None:
        request_id = self.request_id()
        self.post(m.Sync(request_id))
        self.flush()
        self._commands.answer(request_id, self.timeout_s)

    def _upload_and_discard(self, data: memoryview) -> None:
        self._bulk.upload([data], "control", self._bulk.discard)

    def inspect(self, *, engines: bool = False) -> m.Inspection:
        """Ask for the worker's memory, what this session did since it was last asked, and what runs its programs."""
        with self.lock:
            request_id = self.request_id()
            self.post(m.Inspect(request_id, engines))
            reply = self.wait(request_id)
            if not isinstance(reply, m.Inspection):
                raise ProtocolError(f"expected Inspection, got {type(reply).__name__}")
            return reply


class Memory:
    """What the client knows of one piece of memory in a daemon: of one tensor, and of all its views.

    Nearly all die untouched, hence no `__init__`.

    Attributes:
        nbytes: Its size; 0 while only one tensor lives in it, which knows its own.
        reads: How often something in it was read since it was last written.
        reinterpreted: Whether a view of it reads its bytes as conjugates or negatives, which the client cannot see.
        contents: All its bytes, in a tensor of one dimension, while nothing has written to it since they were read.
        numbers: The same as plain numbers, with the dtype as which they are read.
        local: All its bytes, in a tensor of one dimension, once the program wanted to touch them: from then on the
            memory is here, and what the daemon has is out of date.
    """

    nbytes: int = 0
    reads: int = 0
    reinterpreted: bool = False
    contents: torch.Tensor | None = None
    numbers: tuple[torch.dtype, list[Any]] | None = None
    local: torch.Tensor | None = None

    def written(self) -> None:
        """Note that a command which writes to it has been queued."""
        if self.reads:
            self.reads = 0
            self.contents = self.numbers = None


class Handle:
    """A handle: it names one tensor of a session, and its last reference frees that, in a batch with others.

    Finalizers may run anywhere, even inside the session's own lock, so dying only appends the id to the ids that
    died (an atomic operation); the next message carries it.

    Attributes:
        memory: The memory in which the tensor lives; that of its base where it is a view.
        kind: The tensor class under which its bytes are counted when they are fetched.
        immediate: Whether operators on it wait until the daemon has run them, and raise what went wrong.
    """

    __slots__ = ("__weakref__", "_dead", "id", "immediate", "kind", "memory", "session")

    def __init__(self, handle_id: int, session: Session, dead: deque[int]) -> None:
        self.id = handle_id
        self.memory = Memory()
        self.kind = "output"
        self.immediate = False
        self.session = session
        self._dead = dead

    @unseen  # runs wherever the last reference goes
    def __del__(self) -> None:
        self._dead.append(self.id)
