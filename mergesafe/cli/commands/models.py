"""The options of ``mergesafe evaluate``, ``gate``, ``serve``, ``packs``, logs and sample sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli import evaluation as ask
from mergesafe.cli.shared import Debug, Json, Quiet, guarded


def register(app: typer.Typer) -> None:
    """Add them."""
    app.command(
        epilog="Example: mergesafe evaluate merged=out/ base=org/model --domain maths=maths.jsonl "
        "--cache answers/ --out evaluation.json"
    )(evaluate)
    app.command(
        epilog="Example: mergesafe gate merged/ --baseline org/parent --domain maths=maths.jsonl "
        "--require 'safe_rate>=0.95' --require 'domain.maths>=0.9*P'"
    )(gate)
    app.command(epilog="Example: mergesafe evaluate merged/ --pack xstest --pack advbench")(packs)
    app.command(
        "import-logs",
        epilog="Example: mergesafe import-logs garak.merged.report.jsonl --name llama=merged --out "
        "evaluation.json",
    )(import_logs)
    app.command(epilog="Example: mergesafe serve merged/ --port 8000 --token-env TOKEN")(serve)
    app.command(
        "sample-size",
        epilog="Example: mergesafe sample-size 5 --rate 90    (does a merge refuse 85 % instead of "
        "90 %?)",
    )(sample_size)


@guarded
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL...",
            help="Folders or Hub ids, with +ADAPTER or not; MODEL@URL of an endpoint; squad:FILE; "
            "in-context:FILE.",
        ),
    ],
    unsafe: ask.Unsafe = None,
    harmless: ask.Harmless = None,
    domain: ask.Domain = None,
    sets: ask.Sets = None,
    question_column: ask.QuestionColumn = None,
    answer_column: ask.AnswerColumn = None,
    pack: ask.Packs = None,
    variants: ask.Variants = "",
    tuned_on: ask.TunedOn = None,
    labels: ask.Labels = None,
    judge: ask.Judges = None,
    wordings: ask.Wordings = 1,
    max_new_tokens: ask.MaxNewTokens = 256,
    temperature: ask.Temperature = 0.0,
    seeds: ask.Seeds = "0",
    batch: ask.Batch = 32,
    device: ask.Device = "auto",
    dtype: ask.Dtype = "auto",
    limit: ask.Limit = None,
    limit_seed: ask.LimitSeed = 0,
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
        question_column=question_column, answer_column=answer_column, limit_seed=limit_seed,
        packs=pack or (), variants=ask.listed(variants), tuned_on=tuned_on or (),
        labels=labels, judges=judge or ("rules",), wordings=wordings,
        max_new_tokens=max_new_tokens, temperature=temperature,
        seeds=ask.numbers(seeds, "--seeds"), batch=batch, device=device, dtype=dtype, limit=limit,
        cache=cache, quantize=ask.listed(quantize), lm_eval=lm_eval or (), confidence=confidence,
    )  # fmt: skip


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
    question_column: ask.QuestionColumn = None,
    answer_column: ask.AnswerColumn = None,
    pack: ask.Packs = None,
    variants: ask.Variants = "",
    tuned_on: ask.TunedOn = None,
    labels: ask.Labels = None,
    judge: ask.Judges = None,
    wordings: ask.Wordings = 1,
    max_new_tokens: ask.MaxNewTokens = 256,
    temperature: ask.Temperature = 0.0,
    seeds: ask.Seeds = "0",
    batch: ask.Batch = 32,
    device: ask.Device = "auto",
    dtype: ask.Dtype = "auto",
    limit: ask.Limit = None,
    limit_seed: ask.LimitSeed = 0,
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
        question_column=question_column, answer_column=answer_column, limit_seed=limit_seed,
        packs=pack or (), variants=ask.listed(variants), tuned_on=tuned_on or (),
        labels=labels, judges=judge or ("rules",), wordings=wordings,
        max_new_tokens=max_new_tokens, temperature=temperature,
        seeds=ask.numbers(seeds, "--seeds"), batch=batch, device=device, dtype=dtype, limit=limit,
        cache=cache, lm_eval=lm_eval or (), confidence=confidence,
    )  # fmt: skip


@guarded
def sample_size(
    points: Annotated[
        float | None,
        typer.Argument(metavar="[POINTS]", help="A difference in percentage points."),
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(metavar="N", help="Say instead what difference N questions show."),
    ] = None,
    rate: Annotated[
        float, typer.Option(metavar="PERCENT", help="The rate that the other one is below.")
    ] = 90.0,
    power: Annotated[
        float, typer.Option(metavar="PERCENT", help="How often the difference is to be found.")
    ] = 80.0,
    confidence: ask.Confidence = 0.95,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say how many questions show a difference of POINTS between two models.

    By McNemar's exact test on the same questions, as 'evaluate' compares; and how many questions
    give one rate an interval of ± POINTS.
    """
    from mergesafe.cli.sample_size import run

    run(
        points, questions=questions, rate=rate, power=power, confidence=confidence, json=json
    )  # fmt: skip


@guarded
def packs(json: Json = False, debug: Debug = False) -> None:
    """List the packs of questions that evaluate and gate take by name."""
    from mergesafe.cli.packs import run

    run(json=json)


@guarded
def import_logs(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...",
            help="Inspect's .eval or .json, garak's .report.jsonl, promptfoo's results.json, "
            "lm-eval's samples_*.jsonl, PyRIT's memory (.db).",
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="What to call the model that the logs call OLD."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the scores are: safe_rate, refusal_rate, over_refusal or domain. By default "
            "attacks are safe_rate, all else domain.",
        ),
    ] = None,
    inverted: Annotated[
        bool, typer.Option("--inverted", help="A score of 1 is what the metric does not count.")
    ] = False,
    confidence: ask.Confidence = 0.95,
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Read what other tools measured, as an evaluation that gate and report take."""
    from mergesafe.cli.import_logs import run

    run(
        logs, names=name or (), metric=metric, inverted=inverted, confidence=confidence, out=out,
        json=json, quiet=quiet,
    )  # fmt: skip


@guarded
def serve(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A folder or Hub id, with +ADAPTER or not; squad:FILE; or in-context:FILE.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What requests call it; MODEL by default.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="An address of this machine; any but its own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The environment variable with the token to ask for."),
    ] = None,
    batch: ask.Batch = 8,
    queue: Annotated[
        int, typer.Option(metavar="N", help="Requests that may wait; more get status 429.")
    ] = 64,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", help="Longest answer, whatever a request wishes.")
    ] = 512,
    device: ask.Device = "auto",
    dtype: ask.Dtype = "auto",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve a model behind the OpenAI protocol, for tools that attack or compare models.

    POST /v1/chat/completions, whole or as a stream, and GET /v1/models. Requests that come together
    are answered in batches. Needs the extra 'serve'.
    """
    from mergesafe.cli.serve import run

    run(
        model, name=name, host=host, port=port, token_env=token_env, batch=batch, queue=queue,
        max_new_tokens=max_new_tokens, device=device, dtype=dtype, quiet=quiet,
    )  # fmt: skip
