"""The generations that tests disturb: those of `genie bench recovery`."""

from __future__ import annotations

from dynamo_genie.bench.trust.generating import STEPS, WAYS
from dynamo_genie.bench.trust.generating import DisturbedGeneration as Decoding

__all__ = ["STEPS", "WAYS", "Decoding"]
