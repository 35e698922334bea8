"""Sessions that sent one another tensors: whichever workers die, all of them have what they had."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
import torch
from torch import Tensor

from dynamo_genie.connections.fleet import locked
from dynamo_genie.runtime.recovery import recovery
from dynamo_genie.runtime.session.peer_mesh import PeerMesh
from dynamo_genie.runtime.session.session import Handle
from tests.in_process import Links, Workers
from tests.runtime.recovery.test_histories import History

HISTORIES = 80
LENGTH = 40


class JointHistory(History):
    """Histories of several sessions that send one another tensors."""

    def __init__(self, seed: int, count: int) -> None:
        super().__init__(seed)
        self.session.close()
        self.workers.alive.close()
        links = Links()
        self.everyone = [Workers(links=links) for _ in range(count)]
        self.sessions = [workers.session() for workers in self.everyone]
        self.mesh = PeerMesh()
        self.turn()

    def turn(self) -> None:
        """Let another session be the one that does something."""
        at = self.random.randrange(len(self.sessions))
        self.session, self.workers = self.sessions[at], self.everyone[at]

    def pick(self, of: Callable[[Tensor], bool] = lambda tensor: True) -> tuple[Handle, Tensor]:
        return self.random.choice([each for each in self.tensors if each[0].session is self.session and of(each[1])])

    def free(self) -> None:
        if len(self.tensors) > 4 * len(self.sessions):
            del self.tensors[self.random.randrange(len(self.tensors))]
        if not any(handle.session is self.session and x.shape == (3, 3) for handle, x in self.tensors):
            self.put()

    def move(self) -> None:
        handle, tensor = self.matrix()
        target = self.random.choice([session for session in self.sessions if session is not self.session])
        with locked((self.session, target)):
            self.tensors.append((self.mesh.move(handle, target), tensor.clone()))

    def kill_all(self) -> None:
        for workers in self.everyone:
            workers.kill()

    def die_soon(self) -> None:
        """Let a worker die at some message, which may be one of a recovery."""
        self.workers.dies_at = self.workers.sent + self.random.randint(1, 15)
        self.workers.after = self.random.random() < 0.5

    STEPS = (*History.STEPS, (move, 6), (kill_all, 1), (die_soon, 3))

    def run(self, length: int) -> None:
        steps, weights = zip(*self.STEPS, strict=True)
        for session in self.sessions:
            self.session = session
            for _ in range(3):
                self.put()
        for step in self.random.choices(steps, weights, k=length):
            self.turn()
            self.free()
            step(self)
        self.compare_all()
        for workers in self.everyone:
            workers.dies_at = 0
        for workers in self.everyone:
            workers.kill()
            self.compare_all()
        self.kill_all()
        self.compare_all()
        for session, workers in zip(self.sessions, self.everyone, strict=True):
            session.flush()
            assert session.live_handles == len(workers.alive.session.handles)
            assert session.recovery is not None
            assert session.recovery.count > 0
            session.close()
            workers.alive.close()

    def compare_all(self) -> None:
        for session in self.random.sample(self.sessions, len(self.sessions)):
            self.session = session
            self.compare([each for each in self.tensors if each[0].session is session])


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("count", [2, 3])
def test_what_sessions_have_is_what_they_had_after_any_deaths(
    count: int, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MAX_DEATHS", LENGTH)  # nobody listens between some of them
    for seed in range(part, HISTORIES, 4):
        JointHistory(seed, count).run(LENGTH)


class Threads:
    """Threads that use three sessions at once, while workers die under them."""

    def __init__(self) -> None:
        links = Links()
        self.everyone = [Workers(links=links) for _ in range(3)]
        self.sessions = [workers.session() for workers in self.everyone]
        self.mesh = PeerMesh()

    def run(self, seed: int) -> bool:
        draw = Random(seed)
        kept = [(session.put(torch.full((3,), 10.0 * at + seed)), at) for at, session in enumerate(self.sessions)]
        for _ in range(100):
            handle, at = draw.choice(kept)
            source = handle.session
            if draw.random() < 0.08:
                with source.lock:
                    self.everyone[self.sessions.index(source)].kill()
            if draw.random() < 0.4:
                target = draw.choice([session for session in self.sessions if session is not source])
                with locked((source, target)):
                    kept.append((self.mesh.move(handle, target), at))
            elif draw.random() < 0.5:
                self.check(handle, 10.0 * at + seed)
            if len(kept) > 12:
                del kept[draw.randrange(len(kept))]
        for handle, at in kept:
            self.check(handle, 10.0 * at + seed)
        return True

    def check(self, handle: Handle, value: float) -> None:
        assert handle.session.fetch([handle.id], ["output"])[0].tolist() == [value] * 3


def test_threads_that_find_out_at_once_do_not_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MAX_DEATHS", 400)
    threads = Threads()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(threads.run, range(4), timeout=60))
    assert sum(workers.died for workers in threads.everyone) > 10
    for session, workers in zip(threads.sessions, threads.everyone, strict=True):
        session.close()
        workers.alive.close()
