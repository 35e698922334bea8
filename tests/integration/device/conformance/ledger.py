"""The ledger: what of TorchCTS is known to fail on the device, and why. What it lists must fail, and nothing else may.

A line that begins with `#` is the reason for the names below it, up to the next one; the first line says with which
versions these are the names. Names below a reason that begins with "unsteady" may do either: what they draw depends on
which tests ran before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("known_failures.txt")
UNKNOWN = "not looked into yet"
UNSTEADY = "unsteady"


@dataclass(frozen=True)
class Ledger:
    """The versions for which it was written, and for each name the reason why that fails."""

    versions: str
    reasons: Mapping[str, str]

    @classmethod
    def read(cls, text: str) -> Ledger:
        """Read one; no name may stand in it twice, or without a reason."""
        versions, *lines = (line.strip() for line in text.splitlines() if line.strip())
        reasons: dict[str, str] = {}
        reason = ""
        for line in lines:
            if line.startswith("#"):
                reason = line.removeprefix("#").strip()
                continue
            assert reason, f"{line} has no reason"
            assert line not in reasons, f"{line} is listed twice"
            reasons[line] = reason
        return cls(versions.removeprefix("#").strip(), reasons)

    def text(self) -> str:
        """Return it as it stands in the file."""
        by_reason: dict[str, list[str]] = {}
        for name in sorted(self.reasons):
            by_reason.setdefault(self.reasons[name], []).append(name)
        parts = ["\n".join((f"# {reason}", *by_reason[reason])) for reason in sorted(by_reason)]
        return "\n\n".join((f"# {self.versions}", *parts)) + "\n"

    def wrong(self, failed: Mapping[str, str], passed: Iterable[str]) -> dict[str, str]:
        """Return what is not as it stands here, by name, and in which way.

        Args:
            failed: What failed, and how.
            passed: What did not.
        """
        unlisted = {name: how for name, how in failed.items() if name not in self.reasons}
        mended = (name for name in passed if name in self.reasons and not self._is_unsteady(name))
        return {name: f"{name} fails and is not listed: {how}" for name, how in unlisted.items()} | {
            name: f"{name} is listed and passes" for name in mended
        }

    def after(self, failed: Iterable[str], passed: Iterable[str]) -> Ledger:
        """Return the ledger as it would be right: what passes is out, and what is new has yet to be looked into."""
        gone = {name for name in passed if not self._is_unsteady(name)}
        kept = {name: reason for name, reason in self.reasons.items() if name not in gone}
        return Ledger(self.versions, {**dict.fromkeys(failed, UNKNOWN), **kept})

    def _is_unsteady(self, name: str) -> bool:
        return self.reasons.get(name, "").startswith(UNSTEADY)
