"""What a call pays for the proof that its weights are still those in the daemon, by the kind of memory they lie in."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import xxhash

from dynamo_genie.bench.alternate import in_turns
from dynamo_genie.bench.report import Figure, Measured, summary
from dynamo_genie.runtime.weights.weights import ResidentWeights, WeightChannel
from dynamo_genie.runtime.wire.tensor import TensorSpec
from dynamo_genie.runtime.writes.write_tracking import make_write_tracker

_TENSOR_NBYTES = 4 << 20  # a matrix of a small language model


def measure_weights(mib: int, looks: int) -> Measured:
    """Time looks at equal weights that nobody changes, in turns.

    The floor is bare xxh3 over the same bytes, on one thread.
    """
    count = max(1, (mib << 20) // _TENSOR_NBYTES)
    private = [torch.full((_TENSOR_NBYTES // 4,), float(i)) for i in range(count)]
    shared = [tensor.clone().share_memory_() for tensor in private]
    ways = {
        "private memory": _look_at(private),
        "shared memory, hashed": _look_at(shared),
        "shared memory, sampled": _look_at(shared, sampled=True),
    }
    bare = [tensor.numpy().data for tensor in private]
    samples = in_turns({**ways, "floor": lambda: [xxhash.xxh3_128_digest(view) for view in bare]}, looks)
    floor_s = statistics.median(samples["floor"])
    gb = count * _TENSOR_NBYTES / 1e9
    figures = [Figure(f"a look, {name}", statistics.median(samples[name]) * 1e3, "ms", floor_s * 1e3) for name in ways]
    hashed_s = statistics.median(samples["shared memory, hashed"])
    figures.append(Figure("bytes hashed", gb / hashed_s, "GB/s", gb / floor_s))
    return Measured(figures, {f"{name}_ms": summary(found, 1e3) for name, found in samples.items()})


def _look_at(tensors: Sequence[torch.Tensor], *, sampled: bool = False) -> Callable[[], object]:
    tracker = make_write_tracker()  # one each: a look at some weights is a look at all that their tracker watches
    binding = ResidentWeights(_DaemonThatHasAll(), tracker).bind(tensors, sampled=sampled)
    return lambda: binding.sync(tensors)


class _DaemonThatHasAll(WeightChannel):
    """Stands where the session is: every content is there already."""

    def take_doubt(self) -> bool:
        """Nothing ever fails here."""
        return False

    def __init__(self) -> None:
        self._last = 0

    def mint(self) -> int:
        self._last += 1
        return self._last

    def missing(self, digests: Sequence[bytes]) -> set[int]:
        return set()

    def upload_many(
        self, views: Sequence[memoryview], arrived: Callable[[int], None], *, progress: Callable[[int], None] | None
    ) -> None:
        assert not views

    def store(self, digest: bytes, spec: TensorSpec, upload: int) -> None:
        raise AssertionError

    def sync(self) -> None:
        """Nothing is under way."""

    def adopt(self, handle: int, digest: bytes, spec: TensorSpec) -> None:
        """The content is there."""

    def patch(self, handle: int, offset: int, upload: int) -> None:
        raise AssertionError

    def free(self, handle: int) -> None:
        """Nothing is held."""
