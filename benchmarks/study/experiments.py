"""The experiments: which groups each measures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from dynamo_genie.bench.study.plan import Group, Member, members_of

MODELS = ("gpt2", "bert-base", "vit-base", "clip", "llama-1b", "gptj-6b")
UNSHAPED = "0ms"


def modes(network: str, model: str, prompt: int, chosen: tuple[str, ...]) -> list[Group]:
    """The study's table: every mode, prefill and decode."""
    return [Group(network, model, prompt, members_of(chosen))]


def kv_length(network: str, model: str, prompts: Sequence[int], chosen: tuple[str, ...]) -> list[Group]:
    """Every mode at several lengths of the cache."""
    return [Group(network, model, prompt, members_of(chosen)) for prompt in prompts]


def colocation(networks: Sequence[str], model: str, prompts: Sequence[int]) -> list[Group]:
    """Two daemons: caches where chance puts them, against caches with the attention that reads them."""
    members = (
        Member("local"),
        Member("handle", "blind"),
        Member("semantic", "blind"),
        Member("semantic", "semantic"),
    )
    return [Group(network, model, prompt, members, daemons=2) for network in networks for prompt in prompts]


def networks(
    rates: Sequence[str], delays: Sequence[str], model: str, prompt: int, chosen: tuple[str, ...]
) -> list[Group]:
    """Every mode on a grid of rates and delays."""
    names = [",".join(part for part in point if part) or UNSHAPED for point in product(rates, delays)]
    return [Group(name, model, prompt, members_of(chosen)) for name in names]


def models(network: str, names: Sequence[str], prompt: int, chosen: tuple[str, ...]) -> list[Group]:
    """Every mode on several architectures."""
    return [Group(network, name, prompt, members_of(chosen)) for name in names]


def concurrency(network: str, model: str, prompt: int, sessions: Sequence[int], chosen: tuple[str, ...]) -> list[Group]:
    """Several clients at the same time on one daemon; `local` is one client, for the right answers."""
    return [Group(network, model, prompt, members_of(chosen), sessions=count) for count in sessions]
