"""Resident weights on a daemon that is host memory, with each way of noticing writes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynamo_genie.runtime.weights.weights import ResidentWeights
from dynamo_genie.runtime.writes.write_tracking import KernelWriteTracker, SampledFingerprint, WriteTracker
from tests.runtime.weights.host_channel import HostChannel


def make_kernel_tracker() -> WriteTracker:
    try:
        return KernelWriteTracker()
    except OSError as error:
        pytest.skip(f"THE KERNEL CANNOT TRACK WRITES, exact tracking is not tested: {error}")


@pytest.fixture(params=["kernel", "sampled"])
def tracker(request: pytest.FixtureRequest) -> Iterator[WriteTracker]:
    made = make_kernel_tracker() if request.param == "kernel" else SampledFingerprint()
    yield made
    made.close()


@pytest.fixture
def channel() -> HostChannel:
    return HostChannel()


@pytest.fixture
def weights(channel: HostChannel, tracker: WriteTracker) -> Iterator[ResidentWeights]:
    made = ResidentWeights(channel, tracker)
    yield made
    made.close()
