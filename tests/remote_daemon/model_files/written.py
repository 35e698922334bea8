"""Safetensors files as tests want them: right ones, and ones that are wrong in one place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dynamo_genie.remote_daemon.model_files.header import DTYPES
from dynamo_genie.tensors import flat_bytes

NAMES = {dtype: name for name, (dtype, _) in DTYPES.items()}


def tensor_file(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file of these tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        raw = flat_bytes(tensor.contiguous()).numpy().tobytes()
        dtype = NAMES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def write_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tensor_file(tensors))
    return path


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, torch.Tensor]]) -> Path:
    """A model of shards, with its index."""
    for file, tensors in shards.items():
        write_file(folder / file, tensors)
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
