"""The options of ``mergesafe vet`` and ``mergesafe similarity``: parents beside their base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli import evaluation as ask
from mergesafe.cli.shared import Debug, Json, Memory, Quiet, Threads, guarded

ModelArguments = Annotated[
    list[str],
    typer.Argument(metavar="[NAME=]MODEL...", help="Folders, URLs or Hub ids; +ADAPTER or not."),
]
BaseModel = Annotated[
    str, typer.Option("--base", metavar="MODEL", help="What the models were fine-tuned from.")
]


def register(app: typer.Typer) -> None:
    """Add the two commands."""
    pool = "maths=models/maths code=models/base+adapters/code --base models/base"
    app.command(epilog=f"Example: mergesafe vet {pool} --out vet.json")(vet)
    app.command(epilog=f"Example: mergesafe similarity {pool} --prompts questions.jsonl")(
        similarity
    )


@guarded
def vet(
    models: ModelArguments,
    base: BaseModel,
    behaviour: Annotated[
        bool,
        typer.Option(
            help="Ask the models and judge their answers; --no-behaviour skips this and refuses "
            "the options that only this uses."
        ),
    ] = True,
    margin: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=ask.share,
            help="Report a rate that certainly differs from the base's by more than this share.",
        ),
    ] = 0.1,
    min_safe_rate: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", parser=ask.share, help="Required of every parent, as 0.95 or 95%."
        ),
    ] = None,
    max_over_refusal: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", parser=ask.share, help="Required of every parent, as 0.95 or 95%."
        ),
    ] = None,
    unsafe: ask.Unsafe = None,
    harmless: ask.Harmless = None,
    judge: ask.Judges = None,
    max_new_tokens: ask.MaxNewTokens = 64,
    batch: ask.Batch = 32,
    device: ask.Device = "auto",
    limit: ask.Limit = None,
    cache: ask.CacheFolder = None,
    memory: Memory = None,
    threads: Threads = None,
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Audit MODELs before a merge: their files, their weights, their behaviour.

    One verdict per parent, with reasons. Exit status 3 when one is unfit.
    """
    from mergesafe.cli.vet import run

    run(
        models, base, out=out, json=json, quiet=quiet,
        behaviour=behaviour, margin=margin, min_safe_rate=min_safe_rate,
        max_over_refusal=max_over_refusal, unsafe=unsafe or (), harmless=harmless or (),
        judges=judge or ("rules",), max_new_tokens=max_new_tokens, batch=batch, device=device,
        limit=limit, cache=cache, memory=memory, threads=threads,
    )  # fmt: skip


@guarded
def similarity(
    models: ModelArguments,
    base: BaseModel,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare hidden states and outputs on these questions: JSON lines, or .txt.",
        ),
    ] = None,
    memory: Memory = None,
    threads: Threads = None,
    device: Annotated[
        str,
        typer.Option(help="Where models run for --prompts: auto, cpu or cuda:N. Only with them."),
    ] = "auto",
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare MODELs layer by layer: cosine, distance, sign conflict and norms of task vectors.

    With --prompts also linear CKA of hidden states, KL divergence and top-1 agreement of outputs.
    """
    from mergesafe.cli.similarity import run

    run(
        models, base, prompts=prompts, memory=memory, threads=threads, device=device,
        out=out, json=json, quiet=quiet,
    )  # fmt: skip
