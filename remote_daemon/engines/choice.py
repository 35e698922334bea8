"""The choice of a program's engine, with a reason. Pure: from what was asked for, its traits and the device's kind."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_genie.engines import AUTO, CUDAGRAPHS, EAGER, INDUCTOR, TENSORRT
from dynamo_genie.remote_daemon.engines.traits import Traits

DECODE = "decode"
WORTH_RECORDING_NODES = 8
"""Programs of fewer operators gain less from a recorded graph than copying their results out of it costs."""


@dataclass(frozen=True)
class Choice:
    """An engine and the reason for it; `refused` says that another one was asked for and cannot be had."""

    engine: str
    reason: str
    refused: bool = False


def choose(wanted: str, traits: Traits, device_type: str, tensorrt_missing: str = "") -> Choice:
    """Return the engine for a program.

    Args:
        wanted: A name in `dynamo_genie.engines.ENGINES`.
        traits: Of the program.
        device_type: "cpu" or "cuda".
        tensorrt_missing: Why torch-tensorrt cannot be used here; empty where it can.
    """
    if wanted == AUTO:
        return _automatic(traits, device_type)
    obstacle = {
        EAGER: "",
        INDUCTOR: _no_inductor(traits),
        CUDAGRAPHS: _no_cudagraphs(traits, device_type),
        TENSORRT: _no_tensorrt(traits, device_type, tensorrt_missing),
    }[wanted]
    if obstacle:
        return Choice(EAGER, f"{wanted} was asked for, but {obstacle}", refused=True)
    return Choice(wanted, "asked for")


def _automatic(traits: Traits, device_type: str) -> Choice:
    if device_type != "cuda":
        return Choice(EAGER, "on a CPU operators one by one give eager PyTorch's bits, and launching them is cheap")
    if traits.phase != DECODE:
        what = traits.phase or "no phase is known, so the program"
        return Choice(EAGER, f"{what} keeps the device busy longer than launching takes")
    obstacle = _no_cudagraphs(traits, device_type)
    if obstacle:
        return Choice(EAGER, f"decode, but {obstacle}")
    shapes = "caches that grow in arenas" if traits.grows else "static shapes"
    return Choice(CUDAGRAPHS, f"decode with {shapes}: launching the operators would take longer than they do")


def _no_cudagraphs(traits: Traits, device_type: str) -> str:
    if device_type != "cuda":
        return f"CUDA graphs need a CUDA device, and this one is {device_type}"
    if traits.growth:
        return (
            f"its caches grow by `cat`, so shapes change at every call, and {traits.growth}; a Static cache keeps them"
        )
    if traits.branches:
        return _branches(traits)
    if traits.random:
        return "it draws random numbers, which the CPU's generator makes"
    if traits.reads_data:
        return f"{traits.reads_data} waits for the device in the middle of it"
    if traits.nodes < WORTH_RECORDING_NODES:
        return f"it has only {traits.nodes} operators"
    return ""


def _branches(traits: Traits) -> str:
    return f"{traits.branches} runs graphs of its own, which the daemon chooses by their data or calls by the row"


def _no_inductor(traits: Traits) -> str:
    if traits.grows:
        return "its caches grow by `cat`, so every call would need a compilation; a Static cache keeps shapes"
    if traits.branches:
        return _branches(traits)
    if traits.random:
        return "it draws random numbers, which would be others than eager PyTorch draws"
    if traits.default_dtype != "float32":  # a setting of the whole process, and compilers work beside the calls
        return f"its default dtype is {traits.default_dtype}, and it would be compiled with float32"
    return ""


def _no_tensorrt(traits: Traits, device_type: str, missing: str) -> str:
    if missing:
        return missing
    if device_type != "cuda":
        return f"TensorRT needs a CUDA device, and this one is {device_type}"
    if traits.mutated:
        return "it writes into its inputs, which TensorRT engines cannot"
    return _no_inductor(traits)
