"""The options of ``mergesafe transplant-tokenizer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli.shared import Debug, Json, Memory, Quiet, ShardSize, Threads, guarded


def register(app: typer.Typer) -> None:
    """Add it."""
    app.command(epilog="Example: mergesafe transplant-tokenizer ./llama ./qwen llama-qwen-tokens/")(
        transplant_tokenizer
    )


@guarded
def transplant_tokenizer(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder, URL or Hub id of the model.")
    ],
    donor: Annotated[
        str,
        typer.Argument(
            metavar="DONOR",
            help="The model whose tokenizer is taken; its weights are read by --method omp alone.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    method: Annotated[
        str,
        typer.Option(
            help="How rows of tokens that MODEL does not have are made: omp, subword, mean or zero."
        ),
    ] = "omp",
    k: Annotated[
        int, typer.Option("--k", metavar="N", help="Rows that omp adds up for a new one, at most.")
    ] = 64,
    memory: Memory = None,
    threads: Threads = None,
    max_shard_size: ShardSize = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUT if it exists.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an unfinished run of the same models and options."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write MODEL with the tokenizer of DONOR into the folder OUT.

    Rows of embedding and head are copied for tokens that both have and made for the others; all
    else is copied byte for byte.
    """
    from mergesafe.cli.transplant import run

    run(
        model, donor, out, json=json, quiet=quiet, method=method, k=k, memory=memory,
        threads=threads, max_shard_size=max_shard_size, overwrite=overwrite, resume=resume,
    )  # fmt: skip
