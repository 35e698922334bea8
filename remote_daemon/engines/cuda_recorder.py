"""The recorder of CUDA graphs on a CUDA device: captures with torch, and leaves torch in order where that fails.

What torch, CUDA and CuPy must hold for this to work stands in docs/cuda.md, line by line.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.cudagraphs import Recorder
from dynamo_genie.remote_daemon.engines.engine import NotNow
from dynamo_genie.torch_internals.graph_capture import end_failed_capture


class CudaRecorder:
    """Records CUDA graphs. All recordings of a worker share one pool of memory, for they never run at the same time.

    A pool whose last graph has gone cannot be used again (torch asserts it), so an empty graph keeps it: the `keeper`.
    """

    def __init__(
        self,
        device: torch.device,
        cuda: Any = torch.cuda,
        end_failed: Callable[[torch.device, Any], bool] = end_failed_capture,
    ) -> None:
        self._device = device
        self._cuda = cuda
        self._end_failed = end_failed
        self._pool: Any = None
        self._keeper: Any = None
        self._left_behind: list[Any] = []
        self._recordings: weakref.WeakSet[Any] = weakref.WeakSet()

    def record(self, run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
        """See `Recorder`. Raises what `run` raises, rather than what ending the capture says about it."""
        with self._cuda.device(self._device):
            if self._pool is None:
                self._open_pool()
            graph = self._cuda.CUDAGraph()
            with _without_collector():
                results = self._capture(graph, run)
        self._recordings.add(graph)
        return graph.replay, results

    def _open_pool(self) -> None:
        pool = self._cuda.graph_pool_handle()
        keeper = self._cuda.CUDAGraph()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The CUDA Graph is empty")
            with self._cuda.graph(keeper, pool=pool, capture_error_mode="thread_local"):
                pass
        self._pool, self._keeper = pool, keeper

    def _capture(self, graph: Any, run: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        before = self._cuda.current_stream()
        failure: Exception | None = None
        first: Exception | None = None
        try:
            # the bulk thread may allocate and copy meanwhile: only this thread must not
            with self._cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                try:
                    return run()
                except Exception as error:
                    failure = error
                    raise
        except Exception as error:  # noqa: BLE001 - raised again, or what came before it
            self._cuda.set_stream(before)  # torch's own one is left where ending a capture fails
            self._leave_pool(graph, ended=error is failure)
            first = failure or error
            raise first from first.__cause__
        finally:
            failure = first = None  # a traceback that this frame keeps would keep all that the program had by then

    def _leave_pool(self, graph: Any, *, ended: bool) -> None:
        """See to it that the next recording has a pool that it can use."""
        if self._end_failed(self._device, self._pool):
            # the allocator of pinned memory still asks this graph, and takes the pool for one that is recorded to
            self._left_behind += [graph, self._keeper]
        elif not ended or self._recordings:
            return  # what the failed capture had is idle in the pool, for the next one
        self._pool = self._keeper = None  # with the keeper, all that the failed capture had is given back


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the garbage collector from running: what it finalizes may ask CUDA for what this thread may not."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class QuietRecorder:
    """A recorder that waits for the compile thread.

    Compilers try kernels out and wait for the whole device. While a stream captures, no thread may do so: both the
    compilation and the capture would fail.
    """

    def __init__(self, recorder: Recorder, background: Background) -> None:
        self._recorder = recorder
        self._background = background

    def record(self, run: Callable[[], tuple[Any, ...]]) -> tuple[Callable[[], None], tuple[Any, ...]]:
        """See `Recorder`."""
        if self._background.busy:
            raise NotNow("a program is being compiled")
        return self._recorder.record(run)
