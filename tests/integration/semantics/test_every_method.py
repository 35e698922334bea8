"""Every public member of `torch.Tensor` on a result: read, written through views, used in place, as in eager.

A result equals eager's bit by bit (or what PyTorch shows on another way of its own), or a named error refuses the
member; what is refused is in `REFUSED`, and is at most 3 % of the members. The cases run in a process of their own, so
a crash is a line of the table. By hand, for some:

    GENIE_TEST_MEMBERS="data_ptr,resize_" python -m pytest tests/integration/semantics/test_every_method.py -m slow -s
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.integration.every_method.cases import EXCLUDED, Case, cases, members
from tests.integration.every_method.steps import MODES, disagreement, eager, use
from tests.integration.every_method.sweep import DIES, Finding, sweep
from tests.integration.every_method.worker import REFUSED as IS_REFUSED

pytestmark = [pytest.mark.slow, pytest.mark.sweep]

NEEDS_A_DAEMON = True

SHARE_REFUSED = 0.03

REFUSED: dict[str, str] = {
    "data": "`plain.data = result` lets a plain tensor take over a storage without memory, and no code of ours is asked"
}
"""Members that may raise a named error where eager has a value, and why."""


def selected() -> tuple[str, ...]:
    names = tuple(name.strip() for name in os.environ.get("GENIE_TEST_MEMBERS", "").split(",") if name.strip())
    unknown = set(names) - set(members())
    assert not unknown, f"GENIE_TEST_MEMBERS names what torch.Tensor lacks or the sweep leaves out: {sorted(unknown)}"
    return names


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", MODES)
def test_every_member_of_a_result_is_as_in_eager(mode: str, backend_name: str) -> None:
    findings = list(sweep(backend_name, mode, selected()))
    swept = {finding.member for finding in findings}
    assert swept == set(selected() or members())
    refused = _members(findings, IS_REFUSED)
    wrong = [finding for finding in findings if finding.verdict not in (None, IS_REFUSED)]
    print(
        f"\n{mode}: {len(findings)} cases of {len(swept)} members, {len(wrong)} wrong, {len(refused)} members refused"
    )
    for finding in findings:
        if finding.verdict is not None:
            print(f"  {finding.verdict:<8} {finding.name:<60} {finding.text[:140]}")
    assert not wrong, (
        f"{len(wrong)} cases are not as in eager, in {len({f.member for f in wrong})} members: {_first(wrong)}"
    )
    unexplained = sorted(refused - set(REFUSED))
    assert not unexplained, f"refused, and not in REFUSED: {unexplained}"


def _members(findings: list[Finding], verdict: str) -> set[str]:
    return {finding.member for finding in findings if finding.verdict == verdict}


def _first(findings: list[Finding]) -> str:
    return "; ".join(f"{finding.name} {finding.verdict}: {finding.text[:100]}" for finding in findings[:5])


def test_few_members_are_refused_and_few_left_out() -> None:
    assert set(REFUSED) <= set(members())
    assert len(REFUSED) <= SHARE_REFUSED * len(members())
    assert all(hasattr(torch.Tensor, name) for name in EXCLUDED if not name.startswith("__"))


def test_every_member_has_a_case() -> None:
    assert {case.member for case in cases()} == set(members())


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda tensor: tensor.view(-1) + 0.1, "called['out']['values']"),
        (lambda tensor: tensor.clone().view(-1), "written through 0['base']['values']"),
        (lambda tensor: tensor.double().view(-1), "dtype"),
        (lambda tensor: tensor.requires_grad_().view(-1), "requires_grad"),
        (lambda tensor: tensor.view(-1, -1), "RuntimeError"),
    ],
)
def test_the_harness_sees_a_result_that_is_wrong(call: Callable[[torch.Tensor], Any], found: str) -> None:
    values = torch.linspace(-1, 1, 12).view(3, 4)
    expected = use(Case("view", "right", values, lambda tensor: tensor.view(-1)), "no_grad", eager)
    assert disagreement(use(Case("view", "again", values, lambda t: t.view(-1)), "no_grad", eager), expected) is None
    assert found in (disagreement(use(Case("view", "wrong", values, call), "no_grad", eager), expected) or "")


def test_the_harness_sees_that_an_error_is_missing() -> None:
    values = torch.zeros(3)
    expected = use(Case("view", "raises", values, lambda tensor: tensor.view(2)), "no_grad", eager)
    actual = use(Case("view", "does not", values, lambda tensor: tensor.view(3)), "no_grad", eager)
    assert "nothing was raised" in (disagreement(actual, expected) or "")


def dies(gm: torch.fx.GraphModule, example_inputs: list[torch.Tensor]) -> Any:
    """A backend whose compiled functions end the process."""
    return lambda *arguments: os.abort()


def test_a_process_that_dies_is_a_line_of_the_table() -> None:
    findings = list(sweep(f"{__name__}:dies", "no_grad", ("abs",)))
    assert {finding.verdict for finding in findings} == {DIES}
    assert all("SIGABRT" in finding.text for finding in findings)
