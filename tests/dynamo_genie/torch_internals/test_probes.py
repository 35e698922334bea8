"""The hooks into private modules of torch: all are there, all have a probe, and none is used elsewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

from dynamo_genie.torch_internals.probe import MissingHook, Probe, require, takes
from dynamo_genie.torch_internals.probes import FILES, probe_all

ROOT = Path(__file__).parents[3]
SOURCES = ("dynamo_genie", "passes", "runtime", "remote_daemon", "benchmarks")
ROOM = ROOT / "dynamo_genie" / "torch_internals"


def is_private(path: str) -> bool:
    """Whether a dotted path in torch has a private part. Operators are no modules, and `__version__` is public."""
    if not re.fullmatch(r"[\w.]+", path):
        return False
    first, *rest = path.split(".")
    is_operator = rest[:1] == ["ops"]
    return first == "torch" and not is_operator and any(p.startswith("_") and not p.endswith("__") for p in rest)


def named_paths(tree: ast.AST) -> Iterator[str]:
    """Yield each private path in torch that a file imports, or reads by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.ImportFrom):
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from filter(is_private, names)
        elif isinstance(node, ast.Attribute) and is_private(path := ast.unparse(node)):
            yield path


def renamed_paths(tree: ast.AST) -> Iterator[str]:
    """Yield each private path in torch that a file reads through a name it imported, as `utils._x`."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            if first in imported and is_private(path := f"{imported[first]}.{rest}"):
                yield path


def private_paths(tree: ast.AST) -> Iterator[str]:
    yield from named_paths(tree)
    yield from renamed_paths(tree)


def probed(name: str) -> set[str]:
    probes: tuple[Probe, ...] = resolve_name(f"dynamo_genie.torch_internals.{name}:PROBES")
    return {probe.hook for probe in probes}


def test_the_running_torch_has_every_hook() -> None:
    assert [str(missing) for missing in probe_all()] == []


def test_private_modules_of_torch_are_used_in_one_room_only() -> None:
    files = sorted({path.resolve() for name in SOURCES for path in (ROOT / name).rglob("*.py")})
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        if ROOM not in path.parents
        for name in private_paths(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize("name", FILES)
def test_every_hook_has_a_probe(name: str) -> None:
    files = (ROOM / f"{name}.py",) if "." not in name else (ROOM / name.partition(".")[0]).glob("*.py")
    used = {path for file in files for path in named_paths(ast.parse(file.read_text(encoding="utf-8")))}
    assert used <= probed(name)


def test_every_file_with_a_hook_is_probed() -> None:
    with_hooks = {path for path in ROOM.rglob("*.py") if list(private_paths(ast.parse(path.read_text())))}
    probed_together = {ROOM / name.partition(".")[0] for name in FILES if "." in name}
    assert {path.stem for path in with_hooks if path.parent not in probed_together} <= set(FILES)


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo",
        "from torch._ops import OpOverload",
        "from torch import _decomp",
        "from torch.utils import _pytree",
        "torch._C.parse_schema(text)",
        "torch.Tensor._make_wrapper_subclass",
        "import torch.utils._pytree as pytree",
        "def deferred():\n    from torch.utils._pytree import tree_map",
        "from torch import Tensor\nTensor._make_wrapper_subclass",
        "import torch.utils as utils\ndef deferred():\n    return utils._pytree.tree_map",
        "from torch.distributed import rpc\nrpc.api._is_current_rpc_agent_set()",
    ],
)
def test_the_search_finds_private_modules(code: str) -> None:
    assert list(private_paths(ast.parse(code))) != []


@pytest.mark.parametrize(
    "code",
    [
        "torch.__version__",
        "torch.ops.aten._to_copy",
        "import torch.fx",
        "self.torch._x",
        "aten = torch.ops.aten\naten._to_copy",
        "from torch import ops\nops.aten._to_copy",
        "from dynamo_genie.torch_internals import fake\nfake._x",
    ],
)
def test_the_search_leaves_public_ones_alone(code: str) -> None:
    assert list(private_paths(ast.parse(code))) == []


def test_a_lost_hook_is_named_with_its_purpose_and_the_versions_it_was_seen_on() -> None:
    def check() -> None:
        raise AttributeError("no such thing")

    missing = Probe("torch._gone.hook", "does something", check, seen=("2.13.0",)).run()
    assert isinstance(missing, MissingHook)
    assert "lacks torch._gone.hook, which does something" in str(missing)
    assert "seen to work on torch 2.13.0" in str(missing)
    assert "AttributeError: no such thing" in str(missing)


def test_what_is_required_of_a_hook() -> None:
    takes(lambda a, b: None, "a", "b")
    takes(lambda **options: None, "anything")
    with pytest.raises(TypeError, match="no argument c"):
        takes(lambda a: None, "a", "c")
    with pytest.raises(AssertionError, match="the sky is green"):
        require(False, "the sky is green")
