"""The program cache of a worker: Programs that it has seen, compiled once and shared by all its sessions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from types import MappingProxyType
from typing import TypeAlias

import torch

from dynamo_genie.engines import AUTO
from dynamo_genie.errors import ProgramQuarantined, ProtocolError, QuotaExceeded
from dynamo_genie.remote_daemon.channel.program_note import ProgramNote
from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.remote_daemon.memory.memory_budget import MemoryBudget
from dynamo_genie.remote_daemon.operators.arena_plan import KV_CACHE
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, bodies, resolve_program
from dynamo_genie.runtime.wire.program import TensorInput, decode_program, program_digest, role_of

MAX_PROGRAMS = 4096
"""Programs kept when no session names them; single eager operators are programs too, and small."""

NODE_NBYTES, PROGRAM_NBYTES = 1_500, 4_000
"""What a program costs for each operator, and for itself: decoded, resolved, and the function that runs it."""

LOADING_NBYTES = 7_000
"""What each operator takes while its program is loaded."""

Build: TypeAlias = Callable[[ResolvedProgram, str, str], RunningProgram]
"""Makes a program run, given the engine that is wanted and the program's name for the log."""

_SCALARS = MappingProxyType({"int": int, "float": float, "bool": bool})


class LoadedProgram:
    """A program and what runs it.

    Attributes:
        digest: Its identity.
        executable: Takes the inputs in a list that it empties, and returns the results.
        input_kinds: For each input None for a tensor, the Python type for a scalar.
        caches: Tensor inputs that are KV caches, by the facts, and written in place.
        read_otherwise: Tensor inputs that must not share memory with a growing cache; see `arena_plan`.
        nbytes: What it costs.
        users: Sessions that name it, one for each number that they name it by.
    """

    def __init__(self, digest: bytes, resolved: ResolvedProgram, executable: RunningProgram, nbytes: int) -> None:
        self.digest = digest
        program = resolved.program
        self.nbytes = nbytes
        self.users = 0
        self.executable = executable
        self.input_kinds = tuple(None if isinstance(i, TensorInput) else _SCALARS[i.kind] for i in program.inputs)
        self.outputs = len(program.outputs)
        self.mutated = frozenset(program.mutated_inputs)
        self.caches = frozenset(i for i in self.mutated if role_of(program, i) == KV_CACHE)
        self.read_otherwise = resolved.arenas.read_otherwise
        self.random = program.random


class ProgramCache:
    """Compiled programs by content digest and engine; the least recently loaded go, if nobody names them."""

    def __init__(
        self,
        device: torch.device,
        build: Build,
        budget: MemoryBudget,
        check: Callable[[int], None] = lambda nbytes: None,
        note: ProgramNote | None = None,
        quarantined: Collection[bytes] = (),
    ) -> None:
        """Hold nothing yet.

        Args:
            device: What they run on.
            build: Makes one run.
            budget: Where they count: that of host memory.
            check: Raises `MemoryError` where so many bytes more would pass what this process may take.
            note: Where to say which one is built or runs.
            quarantined: Digests of those to refuse.
        """
        self._note = note or ProgramNote()
        self._quarantined = frozenset(quarantined)
        self._device = device
        self._build = build
        self._budget = budget
        self._check = check
        self._loaded: OrderedDict[tuple[bytes, str], LoadedProgram] = OrderedDict()

    def __len__(self) -> int:
        return len(self._loaded)

    def running(self) -> list[RunningProgram]:
        """Return what runs the programs; may be called from any thread."""
        return [loaded.executable for loaded in list(self._loaded.values())]

    def load(self, digest: bytes, encoded: bytes, engine: str = AUTO) -> LoadedProgram:
        """Return the program with this digest, compiling `encoded` when it is new.

        Raises:
            ProtocolError: `encoded` is malformed or is not what the digest names.
            ProgramQuarantined: It ended several workers.
            UnsupportedOperator: It holds an operator outside the table.
            QuotaExceeded, MemoryError: There is no room for it.
        """
        if digest in self._quarantined:
            raise ProgramQuarantined(
                f"program {digest.hex()[:12]} ended several workers of this daemon, one after the other, and is not "
                "run any more; the daemon's log says how they ended, and a restart of the daemon forgets it"
            )
        key = (digest, engine)
        known = self._loaded.get(key)
        if known is not None:
            self._loaded.move_to_end(key)
            return known
        if program_digest(encoded) != digest:
            raise ProtocolError("a program does not match its digest")
        program = decode_program(encoded)
        nodes = sum(len(body.nodes) for body in bodies(program))
        nbytes = PROGRAM_NBYTES + len(encoded) + nodes * NODE_NBYTES
        self._reserve(nbytes, f"a program of {nodes:,} operators")
        self._note.begin(digest)  # a compiler may die of it, too
        try:
            self._check(nodes * LOADING_NBYTES)
            resolved = resolve_program(program, self._device)
            loaded = LoadedProgram(digest, resolved, self._build(resolved, engine, digest.hex()[:12]), nbytes)
        except BaseException:
            self._budget.release_overhead(nbytes)
            raise
        finally:
            self._note.end()
        self._loaded[key] = loaded
        if len(self._loaded) > MAX_PROGRAMS:
            self._drop_unused()
        return loaded

    def _reserve(self, nbytes: int, what: str) -> None:
        """Reserve room for a program; those that nobody names make way."""
        while True:
            try:
                self._budget.reserve_overhead(nbytes, what)
                return
            except QuotaExceeded:
                if not self._drop_unused():
                    raise

    def _drop_unused(self) -> bool:
        """Drop the program that was loaded longest ago of those that nobody names; return whether there was one."""
        key = next((key for key, loaded in self._loaded.items() if not loaded.users), None)
        if key is not None:
            self._budget.release_overhead(self._loaded.pop(key).nbytes)
        return key is not None
