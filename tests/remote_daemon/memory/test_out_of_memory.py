"""Temporaries of a program that lacked memory are free before anything is said about it."""

from __future__ import annotations

import weakref

import torch

from dynamo_genie.remote_daemon.memory.out_of_memory import let_go


def test_what_the_frames_of_an_error_hold_is_let_go() -> None:
    references: list[weakref.ref[torch.Tensor]] = []

    def run() -> None:
        temporary = torch.ones(3)
        references.append(weakref.ref(temporary))
        raise MemoryError

    def run_wrapped() -> None:
        try:
            run()
        except MemoryError as error:
            raise RuntimeError from error

    try:
        run_wrapped()
    except RuntimeError as error:
        assert references[0]() is not None
        let_go(error)
        assert references[0]() is None
