"""`make gpu-check`: a daemon on the real GPU against local CUDA eager, its engines, then the GPU tests.

Says that it was skipped, and exits with 0, where there is no NVIDIA GPU.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import dynamo_genie
from dynamo_genie.bench.daemon import running_daemon
from dynamo_genie.bench.generation import Comparison, compare_with_local
from dynamo_genie.bench.model import Gpt2Shape, build_gpt2, random_prompt
from dynamo_genie.bench.report import Figure, at_most, make_console, show, write_json

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
TESTS_LIMIT_S = 900
ENGINES_LIMIT_S = 600
STEP_BYTES = 3000

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def gpu_check(
    prompt: Annotated[int, typer.Option(help="Tokens in the prompt", min=1)] = 128,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate", min=4)] = 64,
    tests: Annotated[bool, typer.Option(help="Run `pytest -m gpu` as well")] = True,
    results: Annotated[Path, typer.Option(help="Folder for the results")] = RESULTS,
) -> None:
    """Check this machine's GPU; exit code 1 when tokens differ or a test fails."""
    if not torch.cuda.is_available():
        print("skipped: no NVIDIA GPU")
        return
    _exact_float32()
    figures, details, equal = _compare(prompt, new_tokens)
    write_json(results / "gpu_check.json", "gpu_check", details, figures)
    _write_table(results / "gpu_check.txt", figures, equal)
    show(make_console(), _title(equal), figures)
    engines = _run_engines(results)
    passed = _run_tests() if tests else True
    raise typer.Exit(0 if equal and engines and passed else 1)


def _exact_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _compare(prompt: int, new_tokens: int) -> tuple[list[Figure], dict[str, Any], bool]:
    """Generate on the GPU here and through a daemon on it, with both kinds of cache."""
    shape = Gpt2Shape(positions=max(1024, prompt + new_tokens))
    ids = random_prompt(shape, prompt)
    local = build_gpt2(shape).to("cuda")
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    equal = True
    with running_daemon(device="cuda") as daemon:
        try:
            options = {"daemons": daemon.endpoint}
            details["daemon"] = dynamo_genie.connect(**options)
            for cache in ("dynamic", "static"):
                found = compare_with_local(
                    build_gpt2(shape), ids, new_tokens, cache, options, _say,
                    local=copy.deepcopy(local), local_prompt=ids.to("cuda"),
                )  # fmt: skip
                details[cache] = asdict(found)
                figures += _figures(found, cache)
                equal = equal and found.tokens_equal
        finally:
            dynamo_genie.shutdown()
    return figures, details, equal


def _figures(found: Comparison, cache: str) -> list[Figure]:
    here, there = found.local_step_ms, found.remote_step_ms
    sizes = found.bytes_per_step.values()
    both, kv_cache = sum(sum(size.values()) for size in sizes), sum(size["kv_cache"] for size in sizes)
    return [
        Figure(f"time of a token, {cache} cache, floor local CUDA eager", there, "ms", here, found.ratio),
        at_most(f"bytes of a token, {cache} cache, both ways", both, "B", STEP_BYTES),
        at_most(f"of them KV cache, {cache} cache", kv_cache, "B", 0),
    ]


def _say(what: str) -> None:
    print("-", what, flush=True)


def _title(equal: bool) -> str:
    return f"GPU check, GPT-2 124M float32: tokens {'equal to' if equal else 'DIFFER from'} local CUDA eager"


def _write_table(path: Path, figures: list[Figure], equal: bool) -> None:
    with path.open("w", encoding="utf-8") as file:
        show(make_console(file), _title(equal), figures)


def _run_engines(results: Path) -> bool:
    """Run the quick form of `genie bench gpu` on GPT-2."""
    command = [sys.executable, "-m", "dynamo_genie.cli", "bench", "gpu", "--model", "gpt2", "--steps", "20"]
    command += ["--engines", "eager,cudagraphs,inductor", "--json", str(results / "gpu.json")]
    return subprocess.run(command, cwd=ROOT, timeout=ENGINES_LIMIT_S, check=False).returncode == 0


def _run_tests() -> bool:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "tests"]
    return subprocess.run(command, cwd=ROOT, timeout=TESTS_LIMIT_S, check=False).returncode == 0


if __name__ == "__main__":
    app()
