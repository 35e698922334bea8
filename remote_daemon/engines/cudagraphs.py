"""The engine of CUDA graphs: kernels are recorded once, on resident buffers, and then replayed at once.

A recorded graph reads and writes fixed addresses. Inputs that stay where they are from call to call (weights, caches,
all that the program writes to) are recorded where they lie; a call whose inputs lie elsewhere needs a recording of its
own, so a recording is found by those addresses and can never touch another session's tensors. The other inputs, tokens
and positions, are copied to where the recording expects them, and results are copied out before the next replay.

    call 1            runs eager: libraries set themselves up, and nobody knows whether there will be a second one
    call 2            is recorded, then replayed
    call 3...         copy the few inputs in, replay, copy the results out

How a recording is made is a `Recorder`'s business, so that all of this runs without a GPU too.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, Protocol, TypeAlias

import torch

from dynamo_genie.remote_daemon.engines.engine import Executable, NotNow, Unfit
from dynamo_genie.remote_daemon.engines.signature import (
    InputLayout,
    Signature,
    layout_of,
    signature_of,
    stands_for_others,
)
from dynamo_genie.remote_daemon.engines.traits import Traits
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory
from dynamo_genie.torch_internals.tensors import copy_all

MAX_COPIED_NBYTES = 256 << 10
"""Inputs up to this size are copied before each replay unless they are known to stay; larger ones must stay."""

MAX_RECORDINGS = 32
"""Recordings of one program; the least recently used one goes."""

MAX_ONCE_SEEN = 64
"""So many kinds of calls may be seen without one of them coming back; then the program is left to eager."""

MAX_TIMES_TOO_LITTLE = 8
"""A program that finds no memory for a recording runs eager that time, and is left to eager after so many times."""

_Place: TypeAlias = "tuple[InputLayout, int, bool]"


class Recorder(Protocol):
    """Records what a function does on the device."""

    def record(self, run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
        """Record `run` without executing it; return what replays it, and its results, which each replay overwrites.

        Raises:
            NotNow: Nothing can be recorded at the moment.
        """
        ...


@dataclass(frozen=True)
class _Result:
    """How one result of a replay is given out: a view of an input, a copy, or a plain value.

    Attributes:
        value: The recording's result, overwritten by each replay; of a view of an input one without memory, for a
            recording must not hold the memory of its residents alive.
        input: The position of the input whose memory it shares, -1 for none.
        offset: Elements from that input's beginning to its own.
        storage: Its memory, by a number that results share that share memory; -1 for a view of an input.
    """

    value: Any
    input: int = -1
    offset: int = 0
    storage: int = -1


class Recording:
    """One recorded graph, the addresses it is made for, and where the other inputs go."""

    def __init__(
        self,
        replay: Callable[[], None],
        slots: dict[int, torch.Tensor],
        results: list[_Result],
        places: tuple[_Place, ...],
    ) -> None:
        self._replay = replay
        self._places = places
        self._positions = tuple(slots)
        self._slots = [_each_once(slot) for slot in slots.values()]
        self._repeating = any(0 in slot.stride() for slot in slots.values())
        self._results = results
        self._storages = _storages_of(results)
        self._known: tuple[weakref.ref[torch.Tensor], ...] = ()

    def is_for(self, residents: Sequence[torch.Tensor]) -> bool:
        """Whether these are the tensors of the last call, or lie where those lay; the first is quicker to see."""
        same = list(map(is_, [known() for known in self._known], residents))
        if all(same):
            return True
        return all(found or _place_of(residents[i]) == self._places[i] for i, found in enumerate(same))

    def remember(self, residents: Sequence[torch.Tensor]) -> None:
        """Note the tensors that lie at this recording's addresses; holds none of them alive."""
        self._known = tuple(weakref.ref(tensor) for tensor in residents)

    def run(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Copy in, replay, copy out."""
        if self._slots:
            given = [inputs[i] for i in self._positions]
            copy_all(self._slots, [_each_once(tensor) for tensor in given] if self._repeating else given)
        self._replay()
        copies = {number: storage.clone() for number, storage in self._storages.items()}
        return tuple(self._give_out(result, inputs, copies) for result in self._results)

    @staticmethod
    def _give_out(result: _Result, inputs: Sequence[Any], copies: dict[int, torch.Tensor]) -> Any:
        value = result.value
        if not isinstance(value, torch.Tensor):
            return value
        shape, stride = value.shape, value.stride()
        if result.input >= 0:
            of = inputs[result.input]
            return of.as_strided(shape, stride, of.storage_offset() + result.offset)
        flat = copies[result.storage].view(value.dtype)
        return flat.as_strided(shape, stride, value.storage_offset())


class CudaGraphs:
    """An engine: the recordings of one program."""

    def __init__(self, eager: Executable, traits: Traits, recorder: Recorder) -> None:
        self._eager = eager
        self._recorder = recorder
        self._resident = traits.resident
        self._mutated = traits.mutated
        self._recordings: OrderedDict[Signature, Recording] = OrderedDict()
        self._seen_once: set[Signature] = set()
        self._free: tuple[int, ...] | None = None
        self._divided: dict[Signature, tuple[int, ...]] = {}
        self._times_too_little = 0

    @property
    def recordings(self) -> int:
        """How many recordings there are."""
        return len(self._recordings)

    def __call__(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Run the program; empties `inputs`.

        Raises:
            Unfit: Its calls differ too much, or it cannot be recorded.
        """
        return self.run(inputs, self.recorded(inputs))

    def run(self, inputs: list[Any], recording: Recording | None) -> tuple[Any, ...]:
        """Run the program as a call does, with the recording that `recorded` found for it."""
        if recording is None:
            resident, copied = self._divide(inputs)
            if any(stands_for_others(inputs[i]) for i in resident):
                return self._eager(inputs)  # the plain tensor at that address would have the same key
            key = self._key(inputs, resident)
            recording = self._recordings.get(key)
            if recording is None:
                if key not in self._seen_once:
                    return self._first_time(key, inputs)
                recording = self._record(inputs, copied, key[2])
                if recording is None:
                    return self._eager(inputs)
                self._keep(key, recording)
            self._recordings.move_to_end(key)
            recording.remember([inputs[i] for i in resident])
        results = recording.run(inputs)
        inputs.clear()
        return results

    def recorded(self, inputs: Sequence[Any]) -> Recording | None:
        """Return the recording of a call with the very same resident tensors, which most calls are."""
        shape = self._shape_of(inputs)
        resident = self._divided.get(shape)
        if resident is None:
            return None
        tensors = [inputs[i] for i in resident]
        for key, recording in reversed(self._recordings.items()):
            if key[:2] == (shape, resident) and recording.is_for(tensors):
                return recording
        return None

    def key_of(self, inputs: Sequence[Any]) -> Signature:
        """Return what a recording of this call is found by: layouts, numbers, and where residents lie."""
        return self._key(inputs, self._divide(inputs)[0])

    def _shape_of(self, inputs: Sequence[Any]) -> Signature:
        """Return what a call looks like apart from the tensors that are known to stay."""
        if self._free is None:
            self._free = tuple(i for i in range(len(inputs)) if i not in self._resident)
        return signature_of(inputs, self._free)

    def _divide(self, inputs: Sequence[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the positions of resident tensors, and of those that are copied before each replay."""
        written = {inputs[i].untyped_storage()._cdata for i in self._mutated}
        resident: list[int] = []
        copied: list[int] = []
        for position, value in enumerate(inputs):
            if isinstance(value, torch.Tensor):
                stays = (
                    position in self._resident
                    or value.nbytes > MAX_COPIED_NBYTES
                    or _overlaps(value)
                    or value.untyped_storage()._cdata in written  # its copy would not see what is written
                )
                (resident if stays else copied).append(position)
        return tuple(resident), tuple(copied)

    def _key(self, inputs: Sequence[Any], resident: tuple[int, ...]) -> Signature:
        """Return what a recording depends on: all layouts and numbers, and the addresses of residents."""
        shape = self._shape_of(inputs)
        self._divided[shape] = resident
        return (shape, resident, tuple(_place_of(inputs[i]) for i in resident))

    def _first_time(self, key: Signature, inputs: list[Any]) -> tuple[Any, ...]:
        if len(self._seen_once) >= MAX_ONCE_SEEN and not self._recordings:
            raise Unfit(f"{MAX_ONCE_SEEN} calls differed in shapes, numbers or addresses, and none came back")
        if len(self._seen_once) >= MAX_ONCE_SEEN:
            self._seen_once.clear()
            self._divided.clear()
        self._seen_once.add(key)
        return self._eager(inputs)

    def _keep(self, key: Signature, recording: Recording) -> None:
        self._recordings[key] = recording
        self._seen_once.discard(key)
        if len(self._recordings) > MAX_RECORDINGS:
            self._recordings.popitem(last=False)

    def _record(self, inputs: Sequence[Any], copied: tuple[int, ...], places: tuple[_Place, ...]) -> Recording | None:
        """Return a recording, None where there is no memory for one now."""
        try:
            slots = {i: _slot_for(inputs[i]) for i in copied}
            fixed = [slots.get(i, value) for i, value in enumerate(inputs)]
            replay, values = self._recorder.record(lambda: self._eager(list(fixed)))
        except NotNow:
            return None
        except Exception as error:
            if is_out_of_memory(error) and self._times_too_little < MAX_TIMES_TOO_LITTLE:
                self._times_too_little += 1
                return None
            cause = error.__cause__ or error
            raise Unfit(f"it cannot be recorded: {type(cause).__name__}: {str(cause).splitlines()[0]}") from error
        return Recording(replay, slots, _results_of(values, fixed), places)


def _place_of(tensor: torch.Tensor) -> _Place:
    return layout_of(tensor), tensor.data_ptr(), stands_for_others(tensor)


def _slot_for(tensor: torch.Tensor) -> torch.Tensor:
    slot = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    _each_once(slot).copy_(_each_once(tensor))
    return slot


def _each_once(tensor: torch.Tensor) -> torch.Tensor:
    """Return the view that has each element once: an expanded tensor repeats them, and cannot be written whole."""
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    return tensor


def _overlaps(tensor: torch.Tensor) -> bool:
    """Whether elements share memory otherwise than by being repeated: windows that slide, say."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride and size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def _results_of(values: Sequence[Any], fixed: Sequence[Any]) -> list[_Result]:
    """Say for each result of a recording how to give it out."""
    inputs: dict[int, int] = {}
    for position, value in enumerate(fixed):
        if isinstance(value, torch.Tensor):
            inputs.setdefault(value.untyped_storage()._cdata, position)
    numbers: dict[int, int] = {}
    results = []
    for value in values:
        if not isinstance(value, torch.Tensor):
            results.append(_Result(value))
            continue
        if stands_for_others(value):
            raise Unfit("a result stands for the conjugates or negatives of what its memory holds")
        key = value.untyped_storage()._cdata
        position = inputs.get(key, -1)
        if position >= 0 and value.dtype == fixed[position].dtype:
            offset = value.storage_offset() - fixed[position].storage_offset()
            results.append(_Result(torch.empty_strided(value.shape, value.stride(), device="meta"), position, offset))
        elif position >= 0:
            raise Unfit("a result views an input as another dtype")
        else:
            results.append(_Result(value, storage=numbers.setdefault(key, len(numbers))))
    return results


def _storages_of(results: Sequence[_Result]) -> dict[int, torch.Tensor]:
    """Return the memory of the results that are copied out, as bytes, by its number."""
    found: dict[int, torch.Tensor] = {}
    for result in results:
        if result.storage >= 0 and result.storage not in found:
            storage = result.value.untyped_storage()
            found[result.storage] = torch.empty(0, dtype=torch.uint8, device=result.value.device).set_(storage)
    return found
