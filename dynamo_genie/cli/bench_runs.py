"""What runs the experiments of `genie bench`, each with the values of its options. Imports torch in a run only."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import typer

from dynamo_genie.bench.machine import use_one_thread
from dynamo_genie.bench.study.plan import (
    ALL_MODES,
    TRAINED,
    UNSHAPED,
    Group,
    Member,
    Protocol,
    members_of,
    training_groups,
)
from dynamo_genie.bench.study.records import Gap, read_study
from dynamo_genie.bench.study.training_modes import TRAINING_MODES
from dynamo_genie.engines import ENGINES
from dynamo_genie.errors import GenieError, OptionError

if TYPE_CHECKING:
    from dynamo_genie.bench.report import Measured


def transport(given: SimpleNamespace) -> None:
    """The wire alone, against bare pyzmq."""
    use_one_thread()
    from dynamo_genie.bench.transport import measure_transport

    measured = measure_transport(given.round_trips, given.upload_mib or (64, 1024), given.uploads)
    _show("transport", "Transport, two processes on this machine (medians)", measured, given.json)


def decode(given: SimpleNamespace) -> None:
    """What the backend adds to a decode step."""
    use_one_thread()
    from dynamo_genie.bench.decode import DecodePlan, measure_decode
    from dynamo_genie.bench.model import Gpt2Shape

    lengths = tuple(given.cache_length or (128, 1000))
    positions = max(1024, max(lengths) + 16, given.prompt + max(given.steps, given.new_tokens) + 16)
    shape = Gpt2Shape(given.layers, given.embd, given.heads, given.vocab, positions)
    plan = DecodePlan(shape, given.prompt, given.steps, given.generates, given.new_tokens, lengths)
    options = {name: value for name, value in (("daemons", given.daemon), ("key_file", given.key_file)) if value}
    title = f"Decoding, GPT-2 with {given.layers} layers, width {given.embd}, one thread (medians)"
    _show("decode", title, measure_decode(plan, options), given.json)


def gpu(given: SimpleNamespace) -> None:
    """Decode steps against the memory's floor, locally and through each engine."""
    from dynamo_genie.bench.device.decode import DeviceDecodePlan, measure_device_decode

    if given.device == "cpu":
        use_one_thread()
    if given.quick:
        given = _with(given, model="tiny-gpt2", prompt=min(given.prompt, 32), steps=min(given.steps, 5))
    plan = DeviceDecodePlan(given.model, given.dtype, given.prompt, given.steps, _engines(given), given.device)
    measured = measure_device_decode(plan, _say)
    differences = {name: difference for name, difference in measured.details["differences"].items() if difference}
    title = f"{given.model} in {given.dtype} on {given.device}, batch 1, {given.prompt} tokens, Static cache (medians)"
    _show("gpu", title, measured, given.json)
    for name, difference in differences.items():
        print(f"{name}: other tokens than local eager from step {difference['step']:.0f} on, "
              f"where its two best logits are {difference['logit_gap']:.2e} apart")  # fmt: skip
    if not all(difference["explained"] for difference in differences.values()):
        raise typer.Exit(1)


def arenas(given: SimpleNamespace) -> None:
    """Appending to caches in place, against copying them."""
    use_one_thread()
    from dynamo_genie.bench.arenas import measure_arenas

    lengths = tuple(given.length or (128, 1024, 4096))
    measured = measure_arenas(given.layers, given.heads, given.head_dim, lengths, given.steps)
    title = f"Caches of {given.layers} layers, {given.heads} x {given.head_dim} floats, one thread (medians)"
    _show("arenas", title, measured, given.json)


def weights(given: SimpleNamespace) -> None:
    """What a call pays to know that its weights are still those in the daemon."""
    from dynamo_genie.bench.weights import measure_weights

    measured = measure_weights(given.mib, given.looks)
    _show("weights", f"Looking at {given.mib} MiB of unchanged weights (medians)", measured, given.json)


def passes(given: SimpleNamespace) -> None:
    """What understanding a graph costs."""
    use_one_thread()
    from dynamo_genie.bench.model import Gpt2Shape
    from dynamo_genie.bench.passes import measure_passes

    counts = sorted(given.layers or (12, 24, 48))
    measured = measure_passes(Gpt2Shape(counts[0], given.embd, given.heads, given.vocab), counts)
    title = f"Passes over GPT-2, width {given.embd}, one thread (one capture each, processor time)"
    _show("passes", title, measured, given.json)


def recovery(given: SimpleNamespace) -> None:
    """Workers that are killed."""
    use_one_thread()
    from dynamo_genie.bench.trust.recovery import WORKS, RecoveryPlan, measure_recovery

    works = _words(given.works) or list(WORKS)
    if unknown := [name for name in works if name not in WORKS]:
        raise OptionError(f"--works: no work {', '.join(unknown)}; there are {', '.join(WORKS)}")
    _end_on_signals()
    plan = RecoveryPlan(given.kills, works, given.supervisor, given.standby, given.seed)
    measured = measure_recovery(plan, _say)
    what = "supervisor" if given.supervisor else "worker"
    _show("recovery", f"The {what} killed {given.kills} times, {'with' if given.standby else 'without'} a standby",
          measured, given.json)  # fmt: skip
    if not measured.figures[0].passed:
        raise typer.Exit(1)


def load(given: SimpleNamespace) -> None:
    """A crowd of sessions, and a soak."""
    use_one_thread()
    from dynamo_genie.bench.trust.load import LoadPlan, measure_load

    _end_on_signals()
    plan = LoadPlan(
        given.sessions, min(given.clients, max(1, given.sessions)), given.soak_s, given.warm_up_s, given.seed
    )
    title = f"{given.sessions} sessions with keys, and {given.soak_s:g} s of use; clients on the same machine"
    _show("load", title, measure_load(plan, _say), given.json)


def peers(given: SimpleNamespace) -> None:
    """A decode step by way of other systems."""
    use_one_thread()
    from dynamo_genie.bench.peers.comparison import compare
    from dynamo_genie.bench.peers.systems import DecodeWork

    if given.quick:
        given = _with(given, model="tiny-gpt2", steps=min(given.steps, 20), repeats=1)
    path = given.json or Path("peers.json")
    work = DecodeWork(given.model, given.prompt, given.prompt + given.steps + 32, given.seed)
    _end_on_signals()
    compare(work, given.steps, given.repeats, path, _say)
    _report(path)


def modes(given: SimpleNamespace) -> None:
    """What understanding the graph is worth, mode against mode."""
    given, members = _quickly(given), _members(given)
    _carry_out("modes", given, [Group(given.network, given.model, given.prompt, members)], daemon=given.daemon)


def kv_length(given: SimpleNamespace) -> None:
    """What the length of the KV cache costs in each mode."""
    given, members, lengths = _quickly(given), _members(given), _numbers("--prompts", given.prompts)
    lengths = lengths[:2] if given.quick else lengths
    groups = [Group(given.network, given.model, length, members) for length in lengths]
    _carry_out("kv-length", given, groups, daemon=given.daemon)


def colocation(given: SimpleNamespace) -> None:
    """Two daemons, caches placed by chance against caches placed with the attention that reads them."""
    given, lengths, names = _quickly(given), _numbers("--prompts", given.prompts), _words(given.networks, ";")
    if given.quick:
        lengths, names = lengths[:1], names[:1]
    placed = (Member("handle", "blind"), Member("semantic", "blind"), Member("semantic", "semantic"))
    members = (Member("local"), *placed)
    groups = [Group(name, given.model, length, members, daemons=2) for name in names for length in lengths]
    _carry_out("colocation", given, groups)


def network(given: SimpleNamespace) -> None:
    """Every mode on networks of several rates and delays."""
    given, members = _quickly(given), _members(given)
    rates, delays = (
        ["" if word in ("none", "0") else word for word in _words(text)] for text in (given.rates, given.delays)
    )
    if given.quick:
        rates, delays = rates[:2], delays[:1]
    names = [",".join(part for part in point if part) or UNSHAPED for point in product(rates, delays)]
    _carry_out("network", given, [Group(name, given.model, given.prompt, members) for name in names])


def models(given: SimpleNamespace) -> None:
    """Every mode on several architectures; what does not fit on this machine is named as not measured."""
    from dynamo_genie.bench.study.memory import what_fits

    given, members = _quickly(given), _members(given)
    names = ["tiny-gpt2", "bert-base"] if given.quick else _words(given.models)
    fitting, gaps = what_fits(names, len(_modes(given)), given.dtype, on_gpu=given.device != "cpu")
    groups = [Group(given.network, name, given.prompt, members) for name in fitting]
    _carry_out("models", given, groups, gaps, daemon=given.daemon)


def concurrency(given: SimpleNamespace) -> None:
    """Several clients of one daemon at the same time; `local` is one client, for the right answers."""
    given, members, counts = _quickly(given), _members(given), _numbers("--sessions", given.sessions)
    counts = counts[:2] if given.quick else counts
    groups = [Group(given.network, given.model, given.prompt, members, sessions=count) for count in counts]
    _carry_out("concurrency", given, groups, daemon=given.daemon)


def training(given: SimpleNamespace) -> None:
    """Training steps of a model that lives here or in the daemon, and what an operator of eager code costs."""
    if given.quick:
        given = _with(given, size="tiny", repeats=min(given.repeats, 2))
    names, modes = tuple(_words(given.networks, ";")), _modes(given, TRAINING_MODES)
    if given.size not in TRAINED:
        raise OptionError(f"--size {given.size!r}: write {' or '.join(TRAINED)}")
    if not names:
        raise OptionError("--networks: name one, such as 10gbit,0.1ms or loopback")
    _carry_out("training", given, training_groups(names, given.size, given.batch, given.prompt, modes))


def pipelines(given: SimpleNamespace) -> None:
    """One call on two daemons at the same time; or what the cost model predicts of more."""
    use_one_thread()
    if given.predict:
        from dynamo_genie.bench.pipelines.predicted import predict_study

        path = given.json or Path("pipelines-predicted.json")
        predict_study([read_study(document) for document in given.predict], path, _say)
        _report(path)
        return
    from dynamo_genie.bench.pipelines.plan import Repeats, settings_of
    from dynamo_genie.bench.pipelines.runner import PipelineRunner

    if given.quick:
        small = {"models": "tiny-gpt2,tiny-vit", "prompts": "64", "batch": 8, "layouts": "gathered"}
        given = _with(given, **small, tokens=min(given.tokens, 4), repeats=min(given.repeats, 2))
    networks, prompts = _words(given.networks, ";"), _numbers("--prompts", given.prompts)
    settings = settings_of(networks, _words(given.models), prompts, given.batch, given.tokens, _words(given.layouts))
    _end_on_signals()
    path = given.json or Path("pipelines.json")
    PipelineRunner(Repeats(given.repeats, given.warm_ups, given.seed, given.dtype), path, _say).run(settings)
    _report(path)


def report(given: SimpleNamespace) -> None:
    """Tables and plots from documents."""
    from dynamo_genie.bench.report import page_of, read_figures
    from dynamo_genie.bench.study.report.document import files_of
    from dynamo_genie.bench.study.report.pages import filled

    files: dict[Path, bytes] = {}
    for path in given.documents:
        if (record := read_figures(path)) is not None:
            files[path.with_suffix(".md")] = page_of(record, path.stem).encode()
            continue
        made = files_of(read_study(path), path.stem)
        files.update({path.parent / name: content for name, content in made.items()})
    if given.docs is not None:
        files[given.docs] = filled(_text(given.docs), given.results).encode()
    changed = [path for path, content in files.items() if not path.exists() or path.read_bytes() != content]
    if given.check:
        for path in changed:
            print(f"differs: {path}")
        raise typer.Exit(1 if changed else 0)
    for path in changed:
        path.write_bytes(files[path])
    print(f"{len(files)} files, {len(changed)} of them new or changed")


def _with(given: SimpleNamespace, **changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(given), **changes})


def _quickly(given: SimpleNamespace) -> SimpleNamespace:
    """Return the values of an experiment of the study, with a small model and few repeats where that is asked for."""
    return _with(given, model="tiny-gpt2", repeats=min(given.repeats, 2)) if given.quick else given


def _show(name: str, title: str, measured: Measured, path: Path | None) -> None:
    """Print figures, and write them to a file where one is given."""
    from dynamo_genie.bench.report import make_console, show, write_json

    show(make_console(), title, measured.figures)
    if path is not None:
        write_json(path, name, measured.details, measured.figures)


def _carry_out(
    experiment: str, given: SimpleNamespace, groups: Sequence[Group], gaps: Sequence[Gap] = (), *, daemon: str = ""
) -> None:
    """Run an experiment of the study; print its tables and write its document, tables and plots.

    A run that is ended by a signal leaves the document with what was measured so far.
    """
    if given.device == "cpu":
        use_one_thread()
    from dynamo_genie.bench.study.runner import Runner

    _end_on_signals()
    protocol = Protocol(given.steps, given.repeats, given.warm_ups, given.seed, given.dtype, given.device, daemon)
    path = given.json or Path(f"{experiment}.json")
    runner = Runner(experiment, protocol, path, _say)
    try:
        runner.run(groups, gaps)
    except KeyboardInterrupt:
        print(f"interrupted; what was measured is in {path}", file=sys.stderr)
        raise typer.Exit(130) from None
    _report(path)
    if not any(row.mode != "local" for row in runner.study.rows):
        print(f"no mode but local was measured; {path} says why under gaps", file=sys.stderr)
        raise typer.Exit(1)


def _report(path: Path) -> None:
    """Print the tables of a document and write its report beside it."""
    from dynamo_genie.bench.report import make_console
    from dynamo_genie.bench.study.report.document import files_of, heading, tables_of
    from dynamo_genie.bench.study.report.terminal import show_tables

    console, study = make_console(), read_study(path)
    console.print(heading(study, path.stem), markup=False, highlight=False)
    show_tables(console, tables_of(study))
    for name, content in files_of(study, path.stem).items():
        (path.parent / name).write_bytes(content)
    console.print(f"{path} and its report are in {path.parent.resolve()}", markup=False, highlight=False)


def _members(given: SimpleNamespace) -> tuple[Member, ...]:
    return members_of(_modes(given))


def _modes(given: SimpleNamespace, known: Iterable[str] = ALL_MODES) -> tuple[str, ...]:
    """Read modes, in the order of tables.

    Raises:
        OptionError: One is unknown.
    """
    names, known = set(_words(given.modes)), tuple(known)
    if unknown := names - set(known):
        raise OptionError(f"--modes: no mode {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return tuple(mode for mode in known if mode in names)


def _engines(given: SimpleNamespace) -> tuple[str, ...]:
    """Read engines.

    Raises:
        OptionError: One is unknown, or there is none.
    """
    names = _words(given.engines)
    if not names or any(name not in ENGINES for name in names):
        raise OptionError(f"--engines {given.engines!r}: write names of {', '.join(ENGINES)}, separated by commas")
    return tuple(names)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Read positive numbers.

    Raises:
        OptionError: One is none.
    """
    words = _words(text)
    if not words or not all(word.isdecimal() and int(word) for word in words):
        raise OptionError(f"{option} {text!r}: write positive numbers, separated by commas")
    return tuple(int(word) for word in words)


def _words(text: str, separator: str = ",") -> list[str]:
    return [word.strip() for word in text.split(separator) if word.strip()]


def _text(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise GenieError(f"cannot read {page}: {error.strerror}") from None


def _say(text: str) -> None:
    print(f"- {text}", file=sys.stderr, flush=True)


def _end_on_signals() -> None:
    """Let SIGTERM unwind, as SIGINT does, so that what a run started ends with it."""
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
