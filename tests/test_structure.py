"""The shape of the source: rooms are small, imports run in no circle, and a public class name means one thing."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "dynamo_genie": "dynamo_genie",
    "passes": "dynamo_genie.passes",
    "runtime": "dynamo_genie.runtime",
    "remote_daemon": "dynamo_genie.remote_daemon",
    "benchmarks": "dynamo_genie.bench",
}
"""Folders at the root of the repository, and the packages that they are."""

MAX_MODULES = 20
"""More files beside each other than this want rooms."""

CHANGEABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)

HOMONYMS: dict[str, str] = {}
"""Public class names that rightly stand for two things, and why."""


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its full name, each once: the links lead to the same files again."""
    found = {}
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder)
            if not (ROOT / folder / inner.parts[0]).is_symlink():
                parts = inner.with_suffix("").parts
                found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def imports_of(module: str) -> Iterator[str]:
    """The modules of ours that a module imports: at its top, inside functions, or for types alone."""
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else str(node.module) for name in inner]
        else:
            continue
        yield from (name for name in names if name in modules() and name != module)


def import_graph() -> nx.DiGraph:
    return nx.DiGraph((module, imported) for module in modules() for imported in imports_of(module))


def room(module: str) -> str:
    """The folder of a module, or the module itself where it stands at the top of the package."""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    return module if package == "dynamo_genie" else package


def circles(graph: nx.DiGraph) -> list[list[str]]:
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def test_no_import_circle_deferred_ones_and_those_for_types_included() -> None:
    assert circles(import_graph()) == []


def test_no_circle_of_rooms() -> None:
    between = ((room(module), room(imported)) for module, imported in import_graph().edges)
    assert circles(nx.DiGraph((here, there) for here, there in between if here != there)) == []


def test_no_folder_has_more_modules_beside_each_other_than_one_can_look_over() -> None:
    paths = {*modules().values(), *(ROOT / "tests").rglob("*.py")}
    sizes = Counter(path.parent for path in paths if path.name != "__init__.py")
    assert {str(folder.relative_to(ROOT)): n for folder, n in sizes.items() if n > MAX_MODULES} == {}


def test_a_public_class_name_means_one_thing() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1 and name not in HOMONYMS} == {}
    assert [name for name in HOMONYMS if len(homes[name]) < 2] == []


def tables(source: str) -> Iterator[str]:
    """The names that a module binds at its top to a dict, a list or a set, which anybody could change."""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        made_by = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ""
        if isinstance(node.value, CHANGEABLE) or made_by in ("dict", "list", "set", "defaultdict", "Counter"):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield ast.unparse(target)


def test_tables_of_modules_are_frozen() -> None:
    found = {f"{module}.{name}" for module, path in modules().items() for name in tables(path.read_text("utf-8"))}
    assert {name for name in found if not name.endswith(".__all__")} == set()


def test_the_search_for_tables_sees_them() -> None:
    source = "A = {}\nB: list[int] = [1]\nC = D = {x for x in y}\nE = dict(a=1)\nF = (1,)\nG = MappingProxyType({})"
    assert list(tables(source)) == ["A", "B", "C", "D", "E"]


def test_the_search_for_imports_sees_all_three_kinds() -> None:
    assert "dynamo_genie.api" in set(imports_of("dynamo_genie"))  # inside a function, and for types alone
    assert "dynamo_genie.compiler" in set(imports_of("dynamo_genie.backend"))
