"""What the commands of the study have in common: their options, and how a run is carried out and shown."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dynamo_genie.bench.study.plan import ALL_MODES, Group, Protocol
from dynamo_genie.bench.study.records import Gap
from dynamo_genie.errors import OptionError

Network = Annotated[str, typer.Option(help="RATE,DELAY,LOSS such as 10gbit,0.1ms (one way), or loopback")]
Model = Annotated[str, typer.Option(help="What to run: gpt2, gptj-6b, llama-1b, bert-base, vit-base, clip, ...")]
Prompt = Annotated[int, typer.Option(help="Tokens of the prompt", min=1)]
Steps = Annotated[int, typer.Option(help="Decode steps of a repeat", min=1)]
Repeats = Annotated[int, typer.Option(help="Measured repeats", min=1)]
WarmUps = Annotated[int, typer.Option(help="Repeats before, which compile everything", min=1)]
Seed = Annotated[int, typer.Option(help="Of weights and prompt")]
Modes = Annotated[str, typer.Option(help="Modes to measure beside local, separated by commas")]
Daemon = Annotated[str, typer.Option(help="Use this daemon, on another machine; tcp://HOST:PORT")]
Device = Annotated[str, typer.Option(help="Of the daemons: cpu or cuda")]
Dtype = Annotated[str, typer.Option(help="Of the weights: float32, float16 or bfloat16")]
Quick = Annotated[bool, typer.Option("--quick", help="A small model and few repeats: to see that it works")]
Json = Annotated[Path | None, typer.Option(help="Where to write the results [NAME.json]; the report goes beside it")]

EVERY_MODE = ",".join(ALL_MODES)


def chosen_modes(text: str) -> tuple[str, ...]:
    """Read modes from text, in the order of tables.

    Raises:
        OptionError: One is unknown.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := names - set(ALL_MODES):
        raise OptionError(f"--modes: no mode {', '.join(sorted(unknown))}; there are {', '.join(ALL_MODES)}")
    return tuple(mode for mode in ALL_MODES if mode in names)


def several(option: str, text: str) -> tuple[int, ...]:
    """Read positive numbers from text.

    Raises:
        OptionError: One is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise OptionError(f"{option} {text!r}: write positive numbers, separated by commas")
    return tuple(int(word) for word in words)


def what_fits(names: Sequence[str], processes: int, dtype: str, device: str) -> tuple[list[str], list[Gap]]:
    """Return the models that this machine can run in so many modes at a time, and why it cannot run the others.

    Every mode has a client and a daemon with the weights of their own; on a GPU the daemons' are there.
    """
    from dynamo_genie.bench.study.memory import available_nbytes, needed_nbytes

    fitting, gaps = [], []
    for name in names:
        needed, there = needed_nbytes(name, dtype, processes, on_gpu=device != "cpu"), available_nbytes()
        if needed <= there:
            fitting.append(name)
        else:
            sizes = f"{needed / 1e9:.0f} GB of memory for {processes} clients and their daemons in {dtype}"
            gaps.append(Gap(name, f"needs {sizes}, and {there / 1e9:.0f} GB are there"))
    return fitting, gaps


def carry_out(
    experiment: str, protocol: Protocol, groups: Sequence[Group], json: Path | None, gaps: Sequence[Gap] = ()
) -> None:
    """Run an experiment; print its tables and write its document, tables and plots.

    A run that is ended by a signal leaves the document with what was measured so far.
    """
    from dynamo_genie.bench.machine import use_one_thread

    if protocol.device == "cpu":
        use_one_thread()
    from dynamo_genie.bench.study.runner import Runner

    end_on_signals()
    path = json if json is not None else Path(f"{experiment}.json")
    runner = Runner(experiment, protocol, path, lambda text: print(f"- {text}", file=sys.stderr, flush=True))
    try:
        runner.run(groups, gaps)
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {path}", file=sys.stderr)
        raise typer.Exit(130) from None
    report(path)
    if not any(row.mode != "local" for row in runner.study.rows):
        print(f"no mode but local was measured; {path} says why under gaps", file=sys.stderr)
        raise typer.Exit(1)


def report(path: Path) -> None:
    """Print the tables of a document and write its report beside it."""
    from dynamo_genie.cli.bench_report import write_reports

    write_reports([path])


def end_on_signals() -> None:
    """Let SIGTERM unwind, as SIGINT does, so that what a run started ends with it."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
