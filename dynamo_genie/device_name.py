"""The name of the device on which models live in a daemon."""

from __future__ import annotations

NAME = "remote_accelerator"
