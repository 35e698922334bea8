"""What a user installs and imports: the list of packages, the links, the entry points, the public names."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
LINKED = {"bench": "benchmarks", "passes": "passes", "runtime": "runtime", "remote_daemon": "remote_daemon"}


def load_setup() -> ModuleType:
    """setup.py as a module, without running setup()."""
    spec = importlib.util.spec_from_file_location("genie_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packages_on_disk() -> set[str]:
    """Folders with an `__init__.py`, as names below `dynamo_genie`; the links are the same folders once more."""
    tops = [(ROOT / folder, name) for name, folder in LINKED.items()]
    tops += [(path, path.name) for path in (ROOT / "dynamo_genie").iterdir() if path.is_dir() and not path.is_symlink()]
    return {
        ".".join((name, *init.parent.relative_to(top).parts)) for top, name in tops for init in top.rglob("__init__.py")
    }


def modules_on_disk() -> set[str]:
    """Files of code, as paths in a wheel."""
    tops = [(ROOT / folder, f"dynamo_genie/{name}") for name, folder in LINKED.items()]
    found = {f"{name}/{path.relative_to(top)}" for top, name in tops for path in top.rglob("*.py")}
    own = (path for path in (ROOT / "dynamo_genie").iterdir() if not path.is_symlink())
    files = [file for path in own for file in (path.rglob("*.py") if path.is_dir() else [path])]
    return found | {str(file.relative_to(ROOT)) for file in files if file.suffix == ".py"}


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_setup_lists_every_package_on_disk() -> None:
    assert set(load_setup().SUBPACKAGES) == packages_on_disk()


def test_setup_maps_every_package_to_its_folder() -> None:
    setup = load_setup()
    for name in setup.SUBPACKAGES:
        assert (ROOT / setup.folder(name) / "__init__.py").is_file(), name


def test_no_folder_with_code_lacks_an_init_file() -> None:
    folders = {path.parent for name in (*LINKED.values(), "dynamo_genie") for path in (ROOT / name).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_a_wheel_holds_every_module_once_and_no_results(tmp_path: Path) -> None:
    command = ["-q", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run([sys.executable, "setup.py", *command], cwd=ROOT, capture_output=True, timeout=120, check=True)
    built = {str(path.relative_to(tmp_path / "lib")) for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    assert "dynamo_genie/bench/study/client.py" in built
    assert built == {*modules_on_disk(), "dynamo_genie/py.typed"}


@pytest.mark.parametrize("name", LINKED)
def test_a_bare_checkout_reaches_the_folders_through_relative_links(name: str) -> None:
    link = ROOT / "dynamo_genie" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / LINKED[name]


def test_subpackages_import_under_one_name_from_a_bare_checkout() -> None:
    code = "import dynamo_genie.runtime.wire as w, sys; print(w.__name__, 'runtime' in sys.modules)"
    assert run_python(code) == "dynamo_genie.runtime.wire False"


def test_import_dynamo_genie_imports_neither_torch_nor_zmq() -> None:
    # torch imports the package for TORCH_LOGS="+dynamo_genie", and the supervisor imports it in every daemon.
    code = "import dynamo_genie, sys; print(sorted({'torch', 'zmq', 'numpy', 'rich'} & set(sys.modules)))"
    assert run_python(code) == "[]"


def test_the_supervisor_runs_without_torch() -> None:
    code = "import dynamo_genie.remote_daemon.supervisor.supervisor, sys; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_a_worker_starts_without_dynamo() -> None:
    found = "{name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))}"
    code = f"import dynamo_genie.remote_daemon.worker.worker, sys; print({found})"
    assert run_python(code) == "set()"


def test_public_names() -> None:
    # A change here is a change of the interface: say so in CHANGELOG.md.
    code = "import dynamo_genie; print(*sorted(dynamo_genie.__all__))"
    assert run_python(code).split() == sorted(PUBLIC_NAMES)


def test_every_public_name_resolves() -> None:
    code = "import dynamo_genie as g; print([n for n in g.__all__ if getattr(g, n, None) is None])"
    assert run_python(code) == "[]"


def test_the_installed_package_registers_its_backend_and_its_command() -> None:
    try:
        points = {(point.group, point.name): point.value for point in distribution("dynamo_genie").entry_points}
    except PackageNotFoundError:
        pytest.skip("dynamo_genie is not installed here")
    assert points == {
        ("torch_dynamo_backends", "genie"): "dynamo_genie.backend:genie",
        ("torch.backends", "genie"): "dynamo_genie.autoload:autoload",
        ("console_scripts", "genie"): "dynamo_genie.cli.__main__:main",
    }


PUBLIC_NAMES = (
    "connect", "load_weights", "refresh", "register_device", "reset_stats", "shutdown", "stats", "synchronize",
    "to_local",
)  # fmt: skip
