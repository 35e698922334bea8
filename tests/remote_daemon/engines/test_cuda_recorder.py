"""The recorder of CUDA graphs on a simulated torch.cuda: a program that cannot be recorded harms no other one."""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any

import pytest
import torch

from dynamo_genie.remote_daemon.engines.background import Background
from dynamo_genie.remote_daemon.engines.cuda_recorder import CudaRecorder, QuietRecorder
from dynamo_genie.remote_daemon.engines.engine import NodeError, NotNow
from dynamo_genie.remote_daemon.memory.out_of_memory import is_out_of_memory
from tests.remote_daemon.simulated_capture import FORBIDDEN, SimulatedCuda

DEVICE = torch.device("cuda", 0)


@pytest.fixture(params=[False, True], ids=["torch leaves the pool taken", "torch leaves the pool"])
def cuda(request: pytest.FixtureRequest) -> SimulatedCuda:
    return SimulatedCuda(tidy=request.param)


def recorder_on(cuda: SimulatedCuda) -> CudaRecorder:
    return CudaRecorder(DEVICE, cuda, cuda.end_failed)


def forbidden(cuda: SimulatedCuda) -> tuple[Any, ...]:
    """Run a program whose third operator waits for the device."""
    try:
        cuda.ask_the_driver()
    except RuntimeError as error:
        raise NodeError(3, "aten.index.Tensor") from error
    raise AssertionError("a capture allows it")


def too_little(cuda: SimulatedCuda) -> tuple[Any, ...]:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_recording_is_replayed_on_the_stream_that_was_current(cuda: SimulatedCuda) -> None:
    recorder = recorder_on(cuda)
    replay, results = recorder.record(lambda: (cuda.current_stream(),))
    assert results == ("capture",)
    assert cuda.current_stream() == "compute"
    replay()


def test_what_may_not_be_recorded_says_so_itself(cuda: SimulatedCuda) -> None:
    with pytest.raises(NodeError, match="node 3") as caught:
        recorder_on(cuda).record(lambda: forbidden(cuda))
    assert str(caught.value.__cause__) == FORBIDDEN


def test_after_a_failed_capture_the_worker_computes_where_it_did(cuda: SimulatedCuda) -> None:
    with pytest.raises(NodeError):
        recorder_on(cuda).record(lambda: forbidden(cuda))
    assert cuda.current_stream() == "compute"


def test_after_a_failed_capture_memory_is_given_back_and_others_are_recorded(cuda: SimulatedCuda) -> None:
    recorder = recorder_on(cuda)
    first, _ = recorder.record(lambda: ())
    for _ in range(3):
        with pytest.raises(NodeError):
            recorder.record(lambda: forbidden(cuda))
        cuda.empty_cache()
        replay, _ = recorder.record(lambda: ())
        replay()
    first()


def test_a_capture_that_found_no_memory_keeps_none_and_can_be_tried_again(cuda: SimulatedCuda) -> None:
    recorder = recorder_on(cuda)
    for _ in range(2):
        with contextlib.suppress(torch.OutOfMemoryError):
            recorder.record(lambda: too_little(cuda))
        assert cuda.pools == 0, "without the garbage collector: eager execution, which follows, may need it"
    replay, _ = recorder.record(lambda: ())
    with pytest.raises(torch.OutOfMemoryError) as caught:
        recorder.record(lambda: too_little(cuda))
    assert is_out_of_memory(caught.value)
    assert cuda.pools == 1
    recorder.record(lambda: ())
    assert cuda.pools == 1
    replay()


def test_what_a_forbidden_capture_has_taken_is_there_for_the_next_one() -> None:
    cuda = SimulatedCuda(tidy=True)
    recorder = recorder_on(cuda)
    for _ in range(3):
        with pytest.raises(NodeError):
            recorder.record(lambda: forbidden(cuda))
    recorder.record(lambda: ())
    assert cuda.pools == 1


def test_nothing_is_finalized_by_the_garbage_collector_while_a_stream_captures(cuda: SimulatedCuda) -> None:
    recorder = recorder_on(cuda)
    assert gc.isenabled()
    assert recorder.record(lambda: (gc.isenabled(),))[1] == (False,)
    assert gc.isenabled()
    with pytest.raises(NodeError):
        recorder.record(lambda: forbidden(cuda))
    assert gc.isenabled()


def test_after_the_last_recording_has_gone_there_can_be_another(cuda: SimulatedCuda) -> None:
    recorder = recorder_on(cuda)
    for _ in range(3):
        replay, _ = recorder.record(lambda: ())
        replay()
        del replay


def test_nothing_is_recorded_while_a_compiler_works(cuda: SimulatedCuda) -> None:
    background = Background("compiles")
    recorder = QuietRecorder(recorder_on(cuda), background)
    recorder.record(lambda: ())
    first_may_end, second_may_end = threading.Event(), threading.Event()
    first, second = background.submit(first_may_end.wait), background.submit(second_may_end.wait)
    for job, may_end in ((first, first_may_end), (second, second_may_end)):
        with pytest.raises(NotNow, match="compiled"):
            recorder.record(lambda: ())
        may_end.set()
        job.result(10)
    recorder.record(lambda: ())


def test_the_simulation_breaks_where_torch_would() -> None:
    cuda = SimulatedCuda()
    pool = cuda.graph_pool_handle()
    with pytest.raises(RuntimeError), cuda.graph(cuda.CUDAGraph(), pool=pool, capture_error_mode="thread_local"):
        cuda.ask_the_driver()
    assert cuda.current_stream() == "capture"
    with pytest.raises(AssertionError, match=r"captures_underway\.empty"):
        cuda.empty_cache()
    with pytest.raises(AssertionError, match="already recording to mempool_id"):
        cuda.begin(cuda.CUDAGraph(), pool)
