"""The program cache of a worker: Programs that it has seen, compiled once and shared by all its sessions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from types import MappingProxyType
from typing import TypeAlias

import torch

from dynamo_genie.engines import AUTO
from dynamo_genie.errors import ProgramQuarantined, ProtocolError
from dynamo_genie.remote_daemon.channel.program_note import ProgramNote
from dynamo_genie.remote_daemon.engines.engine import RunningProgram
from dynamo_genie.remote_daemon.operators.arena_plan import KV_CACHE
from dynamo_genie.remote_daemon.operators.resolved_program import ResolvedProgram, resolve_program
from dynamo_genie.runtime.wire.program import TensorInput, decode_program, program_digest, role_of

MAX_PROGRAMS = 4096
"""Programs kept when no session names them; single eager operators are programs too, and small."""


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
    """

    def __init__(self, digest: bytes, resolved: ResolvedProgram, executable: RunningProgram) -> None:
        self.digest = digest
        program = resolved.program
        self.executable = executable
        self.input_kinds = tuple(None if isinstance(i, TensorInput) else _SCALARS[i.kind] for i in program.inputs)
        self.outputs = len(program.outputs)
        self.mutated = frozenset(program.mutated_inputs)
        self.caches = frozenset(i for i in self.mutated if role_of(program, i) == KV_CACHE)
        self.read_otherwise = resolved.arenas.read_otherwise
        self.random = program.random


class ProgramCache:
    """Compiled programs by content digest and engine, least recently loaded dropped first."""

    def __init__(
        self, device: torch.device, build: Build, note: ProgramNote | None = None, quarantined: Collection[bytes] = ()
    ) -> None:
        """Build programs for `device`; what is built or runs is noted in `note`, `quarantined` digests are refused."""
        self._note = note or ProgramNote()
        self._quarantined = frozenset(quarantined)
        self._device = device
        self._build = build
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
        self._note.begin(digest)  # a compiler may die of it, too
        try:
            resolved = resolve_program(decode_program(encoded), self._device)
            loaded = LoadedProgram(digest, resolved, self._build(resolved, engine, digest.hex()[:12]))
        finally:
            self._note.end()
        self._loaded[key] = loaded
        if len(self._loaded) > MAX_PROGRAMS:
            self._loaded.popitem(last=False)
        return loaded
