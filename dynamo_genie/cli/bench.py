"""`genie bench NAME`: the table of its experiments, each with its options and what runs it. Imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from dynamo_genie.bench.pipelines.plan import PROMPTED, SEEING
from dynamo_genie.bench.study.plan import ALL_MODES, MODELS
from dynamo_genie.bench.study.training_modes import TRAINING_MODES
from dynamo_genie.cli import bench_runs as runs

SHARED = (*PROMPTED, *SEEING)
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class BenchOption:
    """One option of an experiment.

    Attributes:
        name: Of the value; spelled with dashes on the command line, unless `flag` is given.
        default: Its value when it is not given; `REQUIRED` makes it an argument.
        help: What `--help` says.
        least: The smallest number allowed.
        type: Of the value, where the default does not show it.
        flag: How it is spelled.
    """

    name: str
    default: Any
    help: str
    least: int | None = None
    type: Any = None
    flag: str = ""

    def but(self, **changes: Any) -> BenchOption:
        """Return this option with another default, say."""
        return replace(self, **changes)

    def parameter(self) -> inspect.Parameter:
        """Return it as typer reads it from a function."""
        declare = typer.Argument if self.default is REQUIRED else typer.Option
        declared = declare(*filter(None, [self.flag]), help=self.help, min=self.least)
        annotation: Any = Annotated[self.type or type(self.default), declared]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=self.default, annotation=annotation)


@dataclass(frozen=True)
class Experiment:
    """One command of `genie bench`.

    Attributes:
        name: As it is called.
        summary: Its line in the list of all.
        about: What its own help says.
        run: Carries it out with the values of its options.
        options: In the order in which help shows them.
    """

    name: str
    summary: str
    about: str
    run: Callable[[SimpleNamespace], None]
    options: tuple[BenchOption, ...]

    def command(self) -> Callable[..., None]:
        """Return it as a function with a parameter for each option."""

        def command(**chosen: Any) -> None:
            self.run(SimpleNamespace(**chosen))

        command.__signature__ = inspect.Signature([option.parameter() for option in self.options])  # type: ignore[attr-defined]
        return command


_Numbers = list[int] | None
_File = Path | None
_Files = list[Path] | None

LAYERS = BenchOption("layers", 12, "Layers of the model")
EMBD = BenchOption("embd", 768, "Its width; 768 is the published GPT-2")
HEADS = BenchOption("heads", 12, "Attention heads")
VOCAB = BenchOption("vocab", 50_257, "Size of the vocabulary")
MODEL = BenchOption("model", "gpt2", "What to run: gpt2, gptj-6b, llama-1b, bert-base, vit-base, clip, ...")
NETWORK = BenchOption("network", "10gbit,0.1ms", "RATE,DELAY,LOSS such as 10gbit,0.1ms (one way), or loopback")
PROMPT = BenchOption("prompt", 128, "Tokens of the prompt", least=1)
PROMPTS = BenchOption("prompts", "128,512,1024,2048,4096", "Lengths, separated by commas")
STEPS = BenchOption("steps", 5, "Decode steps of a repeat", least=1)
REPEATS = BenchOption("repeats", 3, "Measured repeats", least=1)
MODES = BenchOption("modes", ",".join(ALL_MODES), "Modes to measure beside local, separated by commas")
WARM_UPS = BenchOption("warm_ups", 2, "Repeats before, which compile everything", least=1)
SEED = BenchOption("seed", 0, "Of weights and prompt")
DEVICE = BenchOption("device", "cpu", "Of the daemons: cpu or cuda")
DTYPE = BenchOption("dtype", "float32", "Of the weights: float32, float16 or bfloat16")
DAEMON = BenchOption("daemon", "", "Use this daemon, on another machine; tcp://HOST:PORT")
QUICK = BenchOption("quick", False, "A small model and few repeats: to see that it works", flag="--quick")
FIGURES = BenchOption("json", None, "Write the results to this file", type=_File)
DOCUMENT = FIGURES.but(help="Where to write the results [NAME.json]; the report goes beside it")

_PROTOCOL = (WARM_UPS, SEED, DEVICE, DTYPE)
_LAST = (QUICK, DOCUMENT)

EXPERIMENTS = (
    Experiment(
        "transport",
        "Round trips and bulk bandwidth to a daemon.",
        "Round trips, upload bandwidth and extra memory of session and worker, each beside its floor.",
        runs.transport,
        (
            BenchOption("round_trips", 2000, "Round trips each way", least=1),
            BenchOption("upload_mib", None, "Size of an upload; repeat for more [64, 1024]", type=_Numbers),
            BenchOption("uploads", 5, "Uploads of each size", least=1),
            FIGURES,
        ),
    ),
    Experiment(
        "decode",
        "Time of a decode step, local and remote.",
        "Time of a decode step and of a token of generate(), in turns with aot_eager in this process; bytes a step.",
        runs.decode,
        (
            LAYERS,
            EMBD.but(default=96),
            HEADS,
            VOCAB,
            PROMPT.but(help="Tokens in the cache when decoding begins"),
            STEPS.but(default=200, help="Steps of each model"),
            BenchOption("generates", 6, "Calls of generate() of each model", least=1),
            BenchOption("new_tokens", 32, "Tokens a call", least=4),
            BenchOption("cache_length", None, "Count bytes here; repeat for more [128, 1000]", type=_Numbers),
            DAEMON.but(help="Use this daemon; GENIE_DAEMONS, else one is started"),
            BenchOption("key_file", "", "The client's key file; GENIE_KEY_FILE by default"),
            FIGURES,
        ),
    ),
    Experiment(
        "gpu",
        "Decode steps against the floor of the memory, by engine.",
        "Decode with a Static cache: local eager, local reduce-overhead, and a daemon with each engine, in turns.\n\n"
        "Exits with 1 where tokens differ from local eager's and rounding does not explain it.",
        runs.gpu,
        (
            MODEL.but(help="gpt2, llama-1b, gptj-6b, tiny-gpt2"),
            DTYPE.but(default="float16", help="float32, float16 or bfloat16"),
            PROMPT,
            STEPS.but(default=50, help="Decode steps of each way"),
            BenchOption("engines", "eager,cudagraphs", "Engines of the daemon, separated by commas"),
            DEVICE.but(default="cuda", help="cuda; cpu shows how it works"),
            QUICK.but(help="A small model and few steps"),
            FIGURES,
        ),
    ),
    Experiment(
        "arenas",
        "Appending to caches in place, against copying them.",
        "Time to append one token to all caches of a model; the floor is torch.cat, which copies them.",
        runs.arenas,
        (
            LAYERS.but(help="Layers, each with keys and values", least=1),
            HEADS.but(help="Heads of a cache", least=1),
            BenchOption("head_dim", 64, "Elements of a head", least=1),
            BenchOption("length", None, "Tokens in a cache; repeat [128, 1024, 4096]", type=_Numbers),
            STEPS.but(default=50, help="Steps of each kind at each length"),
            FIGURES,
        ),
    ),
    Experiment(
        "weights",
        "What it costs to know that no weight was written.",
        "Time to prove before a call that weights are unchanged, in private and in shared memory; the floor is xxh3.",
        runs.weights,
        (
            BenchOption("mib", 512, "Size of the weights", least=4),
            BenchOption("looks", 20, "Looks of each kind", least=1),
            FIGURES,
        ),
    ),
    Experiment(
        "modes",
        "What understanding is worth, mode against mode.",
        "Prefill and decode in each mode: latency, bytes by our count and the kernel's, utilisation, memory.",
        runs.modes,
        (MODEL, NETWORK, PROMPT, STEPS, REPEATS, MODES, *_PROTOCOL, DAEMON, *_LAST),
    ),
    Experiment(
        "kv-length",
        "What the length of the KV cache costs in each mode.",
        "Decode steps at several lengths of the cache, in each mode.",
        runs.kv_length,
        (PROMPTS, MODEL, NETWORK, STEPS, REPEATS, MODES, *_PROTOCOL, DAEMON, *_LAST),
    ),
    Experiment(
        "colocation",
        "Two daemons: caches by chance, or with attention.",
        "Two daemons on two hosts: blind against co-located placement, at several lengths of the cache.",
        runs.colocation,
        (
            PROMPTS.but(default="128,1024,2048", help="Lengths of the cache, separated by commas"),
            BenchOption("networks", "1gbit,0.1ms;10gbit,0.1ms", "Networks, separated by semicolons"),
            *(MODEL, STEPS, REPEATS, *_PROTOCOL, *_LAST),
        ),
    ),
    Experiment(
        "network",
        "Every mode on a grid of rates and delays.",
        "Every mode on a grid of rates and delays; where a mode stops mattering.",
        runs.network,
        (
            BenchOption("rates", "1gbit,10gbit,none", "Rates, separated by commas; none for no limit"),
            BenchOption("delays", "0,0.1ms,1ms,5ms", "Delays one way, separated by commas; 0 for none"),
            *(MODEL, PROMPT, STEPS, REPEATS, MODES, *_PROTOCOL, *_LAST),
        ),
    ),
    Experiment(
        "models",
        "Every mode on several architectures.",
        "Decoders, encoders and towers, in each mode; what does not fit is named as not measured.",
        runs.models,
        (
            BenchOption("models", ",".join(MODELS), "Models, separated by commas"),
            *(NETWORK, PROMPT, STEPS, REPEATS, MODES, *_PROTOCOL, DAEMON, *_LAST),
        ),
    ),
    Experiment(
        "concurrency",
        "Several clients of one daemon at the same time.",
        "Throughput and fairness of 1 to 16 sessions that decode at the same time on one daemon.",
        runs.concurrency,
        (
            BenchOption("sessions", "1,2,4,8,16", "Numbers of sessions, separated by commas"),
            *(MODEL.but(default="gpt2-narrow"), NETWORK, PROMPT, STEPS.but(default=20), REPEATS),
            *(MODES.but(default="handle,semantic"), *_PROTOCOL, DAEMON, *_LAST),
        ),
    ),
    Experiment(
        "training",
        "Training steps: the model in the daemon, or moved twice a step.",
        "Steps of a GPT-2 with AdamW, compiled and eager: locally, with parameters on the CPU (naive), and on the "
        "device (resident); losses compared bit for bit. Then what an operator of eager code costs.",
        runs.training,
        (
            BenchOption("size", "124m", "Of the model: 124m or tiny"),
            BenchOption("networks", "1gbit,0.1ms;10gbit,0.1ms", "Networks, or loopback, separated by semicolons"),
            BenchOption("batch", 4, "Rows of a step", least=1),
            PROMPT.but(help="Tokens of a row"),
            STEPS.but(default=1, help="Steps of a repeat, in which each mode has one turn"),
            REPEATS.but(default=5),
            MODES.but(default=",".join(TRAINING_MODES), help="Modes to measure beside local, separated by commas"),
            *(WARM_UPS.but(least=2), SEED.but(help="Of weights and batch"), DEVICE, DTYPE, *_LAST),
        ),
    ),
    Experiment(
        "pipelines",
        "One prompt, or batch, on two daemons at the same time.",
        "A prompt, or a batch of images, on one daemon and on two that share it out, in turns, one thread each; "
        "logits, tokens and caches compared bit for bit.",
        runs.pipelines,
        (
            BenchOption("models", ",".join(SHARED), "Models, separated by commas"),
            PROMPTS.but(default="128,512,1024,4096"),
            BenchOption("batch", 32, "Images", least=1),
            BenchOption("networks", "10gbit;1gbit", "Networks, or loopback, separated by semicolons"),
            BenchOption("layouts", "gathered,spread", "Where caches end, separated by commas"),
            BenchOption("tokens", 32, "Tokens decoded after the longest prompt, to compare them and caches", least=0),
            REPEATS.but(help="Measured calls of each way"),
            *(WARM_UPS.but(default=1, help="Calls before, which compile everything"), SEED, DTYPE),
            BenchOption("predict", None, "Measure nothing: predict, from what this document says; repeat", type=_Files),
            *_LAST,
        ),
    ),
    Experiment(
        "peers",
        "A decode step by way of other systems.",
        "Decode with the same model over genie, torch.distributed.rpc, a Ray actor and a bare echo, in turns.",
        runs.peers,
        (MODEL, PROMPT, STEPS.but(default=100, help="Steps of each system in a repeat"), REPEATS, SEED, *_LAST),
    ),
    Experiment(
        "recovery",
        "Workers killed under generations and training.",
        "Kill the worker at drawn moments of generations and of training; compare every run with the undisturbed one, "
        "and time the way from the kill to the next token.\n\nExits with 1 where anything differs.",
        runs.recovery,
        (
            BenchOption("kills", 50, "How often, over all works together", least=1),
            BenchOption(
                "works", "", 'Only these, separated by commas: "gpt2 greedy", "t5 beams", training; all by default'
            ),
            BenchOption("supervisor", False, "Kill the supervisor instead, four times a minute", flag="--supervisor"),
            BenchOption("standby", False, "Start the daemon with --standby", flag="--standby"),
            SEED.but(help="Of the moments"),
            FIGURES,
        ),
    ),
    Experiment(
        "load",
        "A thousand sessions with keys, and a soak.",
        "Open so many sessions on one daemon with keys, let each compute, count what they cost and what they leave; "
        "then use a daemon in every way for some time, and see whether memory grows.",
        runs.load,
        (
            BenchOption("sessions", 1000, "Sessions that are open at the same time; 0 leaves them out", least=0),
            BenchOption("clients", 4, "Client processes that share them", least=1),
            BenchOption("soak_s", 0.0, "Seconds of use after that", least=0),
            BenchOption("warm_up_s", 180.0, "Seconds before these in which caches may fill", least=0),
            SEED.but(help="Of what the soak does"),
            FIGURES,
        ),
    ),
    Experiment(
        "report",
        "Tables and plots from documents.",
        "Write NAME.md, and NAME-PLOT.png and .svg, beside each NAME.json; the same document gives the same bytes.",
        runs.report,
        (
            BenchOption("documents", REQUIRED, "Documents, RESULTS.json", type=list[Path]),
            BenchOption("docs", None, "A page whose tables are to be filled in again", type=_File),
            BenchOption(
                "results", Path("benchmarks/results"), "Where the documents that the page names are", type=Path
            ),
            BenchOption("check", False, "Write nothing; fail where a file would change", flag="--check"),
        ),
    ),
    Experiment(
        "passes",
        "Time of the passes, against that of the capture.",
        "Time of all passes over GPT-2, prefill and decode, against that of Dynamo and AOTAutograd; nothing is run.",
        runs.passes,
        (
            BenchOption("layers", None, "Layers of the model; repeat for more [12, 24, 48]", type=_Numbers),
            *(EMBD, HEADS, VOCAB, FIGURES),
        ),
    ),
)

app = typer.Typer(
    help="Measure this machine and this network.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for experiment in EXPERIMENTS:
    app.command(experiment.name, help=experiment.about, short_help=experiment.summary)(experiment.command())
