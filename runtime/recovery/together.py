"""Sessions that recover together: those of which one cannot have again what it had unless another sends it again.

A worker that died takes with it what its session was sent by others, and whoever sent that may have it no longer: then
that session begins again, too, and all of them are told in one order what they were told. A session whose worker lives
joins only where it loses nothing by that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Generic, TypeAlias, TypeVar
from weakref import WeakSet

from dynamo_genie.errors import DaemonUnavailable, GenieError, SessionLost
from dynamo_genie.runtime.attachment.attachment import Attachment
from dynamo_genie.runtime.recovery.journal import Journal
from dynamo_genie.runtime.recovery.lending import Hold, Lending
from dynamo_genie.runtime.recovery.records import Sending
from dynamo_genie.runtime.recovery.recoverable import Recoverable
from dynamo_genie.runtime.recovery.recovery import Recovery
from dynamo_genie.runtime.recovery.replay import Receive, Replay, Send, in_one_order, needed_from_others, plan_replay
from dynamo_genie.runtime.wire import messages as m

log = logging.getLogger(__name__)

SETTLE_EVERY = 256
"""So many steps are told before a worker is waited for."""

SETTLE_JOINTLY_EVERY = 64
"""The same for several: what one has sent, and others have yet to take, lies in their memory."""


M = TypeVar("M", bound=Recoverable)

PassOn: TypeAlias = Callable[[M, m.SendTensor, M, m.ReceiveTensor], m.ReceiveTensor]
"""Tells one session to send, over a link; returns what the other is to be told. Both lack the link and the number."""


class Together(Generic[M]):
    """Sessions that may have sent one another tensors; one alone has no links, and so nothing to `pass_on`."""

    def __init__(self, pass_on: PassOn[M] | None = None) -> None:
        self._members: WeakSet[M] = WeakSet()
        self._lending: Lending[M] = Lending()
        self._pass_on = pass_on

    def add(self, member: M) -> None:
        """Let a session be one of these."""
        self._members.add(member)

    def weights_change(self, member: M) -> None:
        """Let the others save what they computed from a session's weights, which are about to change.

        One that another thread uses is left alone; what it could not compute again is lost should its worker die.
        """
        for each in list(self._members):
            if each is not member and each.lock.acquire(blocking=False):
                try:
                    with suppress(DaemonUnavailable):  # whoever uses it hears of that
                        each.save()
                finally:
                    each.lock.release()

    def go_on(self, member: M, error: DaemonUnavailable) -> None:
        """Let a session go on at another worker, and with it those that it cannot do without; its lock is held.

        Raises:
            SessionLost, DaemonUnavailable: It cannot.
        """
        before = member.attachment
        with self._lending.lead(list(self._members)) as hold:
            if member.attachment is before or not member.attachment.liveness.alive:
                _Recovering(self._members, hold, member, self._pass_on).run(error)


class _Recovering(Generic[M]):
    """One recovery: of one session, and of those that join it."""

    def __init__(self, members: Iterable[M], hold: Hold[M], first: M, pass_on: PassOn[M] | None) -> None:
        """Begin one.

        Args:
            members: All that may join.
            hold: Those of them that this thread may use.
            first: Whose thread it is.
            pass_on: How one sends another something.
        """
        self._members = {recovery_of(each).notes.written: each for each in members}
        self._hold = hold
        self._first = first
        self._pass_on = pass_on
        self._left_out: set[M] = set()
        self._known: list[Attachment] = []

    def run(self, error: DaemonUnavailable) -> None:
        """Recover, or raise why not."""
        recovery_of(self._first).require_going_on(error)
        for each in self._members.values():
            recovery_of(each).clock.begun()
        while True:
            group = self._group()
            if self._first not in group.values():
                self._first.give_up_sources()  # it goes on where it is
                return
            if not self._count_deaths(group.values(), error) or (attachments := self._open(group.values())) is None:
                continue
            try:
                self._tell(group, attachments)
            except SessionLost as again:  # another worker died, or the same one again
                if all(map(self._is_known, attachments.values())):  # nobody did: it is counted all the same
                    recovery_of(self._first).died(first_line(again))
                continue
            return

    # --- who ---------------------------------------------------------------------------------------------------

    def _group(self) -> dict[Journal, M]:
        """Return those that begin again; their workers are gone, or they lose nothing by it."""
        while True:
            for each in self._hold.all:
                recovery_of(each).notes.enter()
            group = {journal: each for journal, each in self._members.items() if each is self._first}
            while more := self._missing(group):
                group.update(more)
            harmed = self._harmed(group)
            if not harmed:
                return {} if self._first in self._left_out else group
            self._left_out |= harmed

    def _missing(self, group: Mapping[Journal, M]) -> dict[Journal, M]:
        """Return those that have to send something again, and those that wait for what is not on its way any more."""
        senders = {journal: self._members.get(journal) for journal in needed_from_others(group)}
        found = {
            journal: each
            for journal, each in senders.items()
            if each is not None and self._may_join(each) and self._take(each)
        }
        at_hand = {journal: each for journal, each in self._members.items() if each in self._hold.all}
        return found | {
            journal: each
            for journal, each in at_hand.items()
            if journal not in group and self._may_join(each) and journal.awaits(group)
        }

    def _may_join(self, member: M) -> bool:
        return member not in self._left_out and recovery_of(member).going_on

    def _take(self, member: M) -> bool:
        if self._hold.take(member, member.timeout_s):
            recovery_of(member).notes.enter()
            return True
        self._left_out.add(member)
        return False

    def _harmed(self, group: Mapping[Journal, M]) -> set[M]:
        """Return those whose workers live, and have what could not be made again."""
        alive = [each for each in group.values() if each.attachment.liveness.alive and each not in self._left_out]
        if not alive:
            return set()
        replays = plan_replay({journal: each.retelling.mint for journal, each in group.items()})
        journals = {each: recovery_of(each).journal for each in alive}
        return {
            each
            for each, journal in journals.items()
            if replays[journal].refused or replays[journal].lost.keys() - journal.lost.keys()
        }

    def _count_deaths(self, group: Iterable[M], error: DaemonUnavailable) -> bool:
        """Count those that died; False where one did so too often, and is left out."""
        for each in group:
            reason = each.attachment.liveness.reason
            if reason is None or self._is_known(each.attachment):
                continue
            self._known.append(each.attachment)
            try:
                recovery_of(each).died(first_line(reason))
            except SessionLost as again:
                if each is self._first:
                    raise again from error
                recovery_of(each).going_on = False
                return False
            log.warning("a worker is gone, and the session goes on at another one: %s", first_line(reason))
        return True

    def _is_known(self, attachment: Attachment) -> bool:
        """Whether an attachment ended by a death that was counted, or by what was done here."""
        return any(attachment is each for each in self._known)

    # --- how ---------------------------------------------------------------------------------------------------

    def _open(self, group: Iterable[M]) -> dict[M, Attachment] | None:
        """Open attachments; None where one could not be had, for a session that is left out."""
        attachments: dict[M, Attachment] = {}
        for each in group:
            try:
                attachments[each] = recovery_of(each).attachment()
            except BaseException as error:
                for opened in attachments.values():
                    opened.close()
                gone = not each.attachment.liveness.alive
                if not isinstance(error, GenieError) or (gone and each is self._first):
                    raise
                self._left_out.add(each)
                if gone:
                    recovery_of(each).going_on = False
                return None
            recovery_of(each).clock.admitted()
        return attachments

    def _tell(self, group: Mapping[Journal, M], attachments: Mapping[M, Attachment]) -> None:
        """Tell the new workers all; where that fails, those that live have heard half of it, and are let go."""
        with ExitStack() as occupied:
            for each in group.values():
                occupied.enter_context(recovery_of(each).occupied())
            try:
                self._tell_all(group, attachments)
            except BaseException as error:
                self._known += [each for each in attachments.values() if each.liveness.alive]
                for attachment in attachments.values():
                    if isinstance(error, GenieError):
                        attachment.liveness.end(SessionLost(str(error)))
                    attachment.close()
                raise

    def _tell_all(self, group: Mapping[Journal, M], attachments: Mapping[M, Attachment]) -> None:
        for member, attachment in attachments.items():
            member.begin_again(attachment)
        for member in attachments:
            member.retelling.begin()
        replays = plan_replay({journal: member.retelling.mint for journal, member in group.items()})
        self._repeat(group, replays)
        for journal, member in group.items():
            member.retelling.finish(replays[journal])
            member.recovered()

    def _repeat(self, group: Mapping[Journal, M], replays: Mapping[Journal, Replay]) -> None:
        """Tell what makes the tensors, and wait until it was done."""
        targets: dict[Sending[Journal], tuple[M, int]] = {}
        for journal, replay in replays.items():
            received = (step for _, step in replay.steps if isinstance(step, Receive))
            targets.update((step.sending, (group[journal], step.handle)) for step in received)
        on_its_way: dict[Sending[Journal], m.ReceiveTensor] = {}
        every = SETTLE_EVERY if len(group) == 1 else SETTLE_JOINTLY_EVERY
        for count, (journal, step) in enumerate(in_one_order(replays), 1):
            member = group[journal]
            if isinstance(step, Send):
                assert self._pass_on is not None
                target, handle = targets[step.sending]
                send, receive = m.SendTensor(step.handle, 0, 0, step.sending.kind), m.ReceiveTensor(handle, 0, 0, 0.0)
                on_its_way[step.sending] = self._pass_on(member, send, target, receive)
            elif isinstance(step, Receive):
                member.retelling.repeat(on_its_way.pop(step.sending))
            else:
                member.retelling.repeat(step)
            if count % every == 0:
                settle(group.values())
        settle(group.values())


def settle(members: Iterable[Recoverable]) -> None:
    """Wait until all that these were told was done; they may wait for one another."""
    for each in members:
        each.retelling.flush()
    for each in members:
        each.retelling.settle()


def recovery_of(member: Recoverable) -> Recovery[Attachment]:
    """Return the recovery of a session that has one: the others are never asked."""
    assert member.recovery is not None
    return member.recovery


def first_line(error: Exception) -> str:
    """Return what an error says first."""
    return str(error).splitlines()[0]
