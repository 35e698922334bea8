"""What `import torch` runs of this package: it gives the device its name, so that a program need not import anything.

A leaf, and quick: nothing of ours that computes or connects is imported before the device is used. PyTorch finds it by
the entry point group `torch.backends`; `TORCH_DEVICE_BACKEND_AUTOLOAD=0` keeps it from looking.
"""

from __future__ import annotations

import logging
from types import ModuleType

from dynamo_genie.device_name import NAME

log = logging.getLogger(__name__)


def autoload() -> None:
    """Open the door to the device, unless torch has an accelerator of its own or another device by now.

    A device of ours becomes the accelerator of the process to C++ code, whose streams are then kept in step in
    its place; next to a device that has streams it must be asked for with `dynamo_genie.register_device()`. Never
    raises: an error here would end `import torch`.
    """
    try:
        from dynamo_genie.torch_internals.device.presence import UNNAMED, has_an_accelerator, name_of_device

        if name_of_device() == UNNAMED and not has_an_accelerator():
            from dynamo_genie.device_door import open_door

            open_door(_load)
    except Exception:  # whatever torch this is, its import goes on
        log.warning("%s is not there; dynamo_genie.register_device() says why", NAME, exc_info=True)


def _load() -> ModuleType:
    from dynamo_genie.device.register import register_device

    return register_device()
