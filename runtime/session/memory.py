"""What the client knows of one piece of memory in a daemon, which remote tensors that are views of it share."""

from __future__ import annotations

from typing import Any

import torch


class Memory:
    """A piece of memory: of one tensor, and of all its views. Nearly all die untouched, hence no `__init__`.

    Attributes:
        nbytes: Its size; 0 while only one tensor lives in it, which knows its own.
        reads: How often something in it was read since it was last written.
        reinterpreted: Whether a view of it reads its bytes as conjugates or negatives, which the client cannot see.
        contents: All its bytes, in a tensor of one dimension, while nothing has written to it since they were read.
        numbers: The same as plain numbers, with the dtype as which they are read.
        local: All its bytes, in a tensor of one dimension, once the program wanted to touch them: from then on the
            memory is here, and what the daemon has is out of date.
    """

    nbytes: int = 0
    reads: int = 0
    reinterpreted: bool = False
    contents: torch.Tensor | None = None
    numbers: tuple[torch.dtype, list[Any]] | None = None
    local: torch.Tensor | None = None

    def written(self) -> None:
        """Note that a command which writes to it has been queued."""
        if self.reads:
            self.reads = 0
            self.contents = self.numbers = None
