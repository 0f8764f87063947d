"""The options of ``mergesafe vet`` and ``mergesafe similarity``: parents beside their base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli import evaluation as ask
from mergesafe.cli.environment import VARIABLES, device_if
from mergesafe.cli.shared import Debug, Json, Memory, Quiet, Threads, guarded

ModelArguments = Annotated[
    list[str],
    typer.Argument(metavar="[NAME=]MODEL...", help="Folders, URLs or Hub ids; +ADAPTER or not."),
]
BaseModel = Annotated[
    str, typer.Option("--base", metavar="MODEL", help="What the models were fine-tuned from.")
]
VettedArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]MODEL... | RECIPE",
        help="Folders, URLs or Hub ids; +ADAPTER or not. Or one recipe, whose merges are probed.",
    ),
]
VettedBase = Annotated[
    str | None,
    typer.Option(
        "--base",
        metavar="MODEL",
        help="What the models were fine-tuned from; of a recipe its base_model by default.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the two commands."""
    pool = "maths=models/maths code=models/base+adapters/code --base models/base"
    recipe = "mergesafe vet recipe.yml --max-interaction 0.1"
    app.command(epilog=f"Examples: mergesafe vet {pool} --out vet.json · {recipe}")(vet)
    app.command(epilog=f"Example: mergesafe similarity {pool} --prompts questions.jsonl")(
        similarity
    )


@guarded
def vet(
    models: VettedArguments,
    base: VettedBase = None,
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
    triggers: Annotated[
        bool,
        typer.Option(
            "--triggers",
            help="Search every parent for a phrase that makes it comply (a backdoor); a minute or "
            "more each on a CPU.",
        ),
    ] = False,
    strengths: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Of a recipe: merge its experts at these strengths. Default: 0.3,0.5,1.",
        ),
    ] = None,
    max_interaction: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=ask.share,
            help="Of a recipe: exit with status 3 if a merge is certainly worse than the worst of "
            "its parents by more than this share. Default: 0.1.",
        ),
    ] = None,
    unsafe: ask.Unsafe = None,
    harmless: ask.Harmless = None,
    question_column: ask.QuestionColumn = None,
    judge: ask.Judges = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Longest response, in tokens. Default: 64, of a recipe 12."),
    ] = None,
    batch: ask.Batch = 32,
    device: ask.Device = "auto",
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="The first N questions of each set. Default: all, of a recipe 24."
        ),
    ] = None,
    cache: ask.CacheFolder = None,
    memory: Memory = None,
    threads: Threads = None,
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Audit MODELs before a merge: their files, their weights, their behaviour.

    One verdict per parent, with reasons. Exit status 3 when one is unfit. Of a RECIPE its parents
    are audited, and merges of them are made in memory and asked: pairs, all but one, each expert
    at several strengths. Exit status 3 also when one is worse than all of its parents.
    """
    from mergesafe.cli.vet import run

    run(
        models, base, out=out, json=json, quiet=quiet, triggers=triggers, strengths=strengths,
        max_interaction=max_interaction, behaviour=behaviour, margin=margin,
        min_safe_rate=min_safe_rate, max_over_refusal=max_over_refusal, unsafe=unsafe or (),
        harmless=harmless or (), question_column=question_column, judges=judge or ("rules",),
        max_new_tokens=max_new_tokens,
        batch=batch, device=device_if(behaviour, device), limit=limit, cache=cache, memory=memory,
        threads=threads,
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
        typer.Option(
            envvar=VARIABLES["--device"],
            help="Where models run for --prompts: auto, cpu or cuda:N. Only with them.",
        ),
    ] = "auto",
    leave_one_out: Annotated[
        bool,
        typer.Option(
            "--leave-one-out",
            help="Also run the mean merge of all models on the prompts, and that without each.",
        ),
    ] = False,
    out: ask.Out = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare MODELs layer by layer: cosine, distance, sign conflict and norms of task vectors.

    And what each adds to the sum of all. With --prompts also linear CKA of hidden states, KL
    divergence and top-1 agreement of outputs.
    """
    from mergesafe.cli.similarity import run

    run(
        models, base, prompts=prompts, memory=memory, threads=threads,
        device=device_if(prompts is not None, device), leave_one_out=leave_one_out,
        out=out, json=json, quiet=quiet,
    )  # fmt: skip
