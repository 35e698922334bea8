"""What TorchCTS is told of `remote_accelerator`: all that there is to claim, so that what fails is in the ledger.

TorchCTS runs this file, found by its name in the folder in which it is started.
"""

from __future__ import annotations

import torch

from dynamo_genie.device.register import register_device

register_device()

CLAIMED = """\
    inference training serialization rng device_generator rng_distributions double_backward gradcheck
    gradient_checkpointing autocast fused_optimizer dataloader module_hooks channels_last sparse nested named_tensor
    foreach fp8 quantized_container_plumbing native_quantization compile pinned_memory streams events deterministic
    guard_alloc device_api ieee754
"""

DTYPES = """\
    float16 float32 float64 bfloat16 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool complex32 complex64
    complex128
"""

manifest = {
    "manifest_version": 1,
    "device_name": "remote_accelerator",
    "backend_import": None,
    "supported_dtypes": {getattr(torch, name): True for name in DTYPES.split()},
    "device_count": 1,
    "ieee754_seed": 67,
    "max_samples": 2,
    "max_samples_ieee754": 1,
    "semantic_level": 4,
    "hardware": {
        "memory_model": "discrete",
        "device_memory_gb": "auto",
        "system_memory_gb": "auto",
        "oom_recoverable": True,
    },
    "resource_limits": {
        "max_device_memory_mb": None,
        "max_system_memory_mb": None,
        "max_tensor_size_mb": None,
        "cleanup_threshold_pct": 80,
    },
    "capabilities": {
        **dict.fromkeys(CLAIMED.split(), True),
        "custom_quantized_decode": False,
        "multi_device": False,
    },
    "skip_ops": [],
    "tolerance_overrides": {},
    "supported_container_formats": {},
    "custom_container_decoders": {},
    "custom_test_dirs": [],
}
