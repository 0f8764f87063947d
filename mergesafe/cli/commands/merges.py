"""The options of ``mergesafe merge``, ``plan``, ``verify``, ``card``, ``sign`` and ``diff``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mergesafe.cli.environment import VARIABLES
from mergesafe.cli.optional_value import Ray
from mergesafe.cli.pasted import MergeCommand, PlanCommand
from mergesafe.cli.shared import (
    Debug,
    Json,
    Memory,
    Quiet,
    ReadableRecipe,
    Seed,
    ShardSize,
    Threads,
    TokenMismatch,
    guarded,
)


def register(app: typer.Typer) -> None:
    """Add them."""
    app.command(cls=MergeCommand, epilog="Example: mergesafe merge ties.yml merged/ --memory 2GiB")(
        merge
    )
    app.command(cls=PlanCommand, epilog="Example: mergesafe plan ties.yml --memory 2GiB")(plan)
    app.command(epilog="Example: mergesafe verify merged/")(verify)
    app.command(
        epilog="Example: mergesafe card merged/ --evaluation evaluation.json --gate gate.json"
    )(card)
    app.command(epilog="Example: mergesafe sign merged/ --key key.pem")(sign)
    app.command(epilog="Example: mergesafe diff models/base merged/ --tensors 20")(diff)


@guarded
def merge(
    recipe: ReadableRecipe,
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder or URL of the merged model.")],
    device: Annotated[
        str,
        typer.Option(
            envvar=VARIABLES["--device"], help="auto (the CPU), cpu, cuda (all GPUs) or cuda:N."
        ),
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
    write_document: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Also write this intermediate document of the recipe; may be given again.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Merge checkpoints as RECIPE says into the folder OUT.

    The same recipe and inputs give the same bytes whatever the memory, threads or processor.
    OUT appears complete or not at all.
    """
    from mergesafe.cli.merge import folders_by_document, run

    run(
        recipe, out, device=device, backend=backend, memory=memory, vram=vram,
        threads=threads, max_shard_size=max_shard_size, seed=seed, overwrite=overwrite,
        resume=resume, on_nonfinite=on_nonfinite, allow_token_mismatch=allow_token_mismatch,
        trace=trace, ray=ray, write_documents=folders_by_document(write_document or []),
        json=json, quiet=quiet,
    )  # fmt: skip


@guarded
def plan(
    recipe: ReadableRecipe,
    memory: Memory = None,
    threads: Threads = None,
    max_shard_size: ShardSize = "5GB",
    allow_token_mismatch: TokenMismatch = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="The method's numbers layer by layer.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what merging RECIPE would do, from headers alone.

    Bytes, memory, time; what is taken of every model; the method's numbers;
    where the result differs from mergekit's on purpose; warnings.
    """
    from mergesafe.cli.plan.command import run

    run(
        recipe,
        memory=memory,
        threads=threads,
        max_shard_size=max_shard_size,
        allow_token_mismatch=allow_token_mismatch,
        layers=layers,
        json=json,
        quiet=quiet,
    )


@guarded
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Local folder of a merged model.")],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Check the signature, too, with this public key (PEM)."),
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the signature lies; OUT/model.sig by default."),
    ] = None,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every byte of the merged model OUT against its manifest.

    Exit status 3 when anything differs from what the merge wrote, or the signature does not hold.
    """
    from mergesafe.cli.verify import run

    run(
        out, public_key=public_key, signature=signature, threads=threads, json=json, quiet=quiet
    )  # fmt: skip


@guarded
def card(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Local folder of a merged model.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What 'mergesafe evaluate --out FILE' wrote."),
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What 'mergesafe gate --out FILE' wrote about OUT."),
    ] = None,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write what was measured into the card of the merged model OUT: figures, judges, sets, gate.

    Verifies OUT before, and writes OUT/README.md and OUT/mergesafe-evidence.json. Sign after it.
    """
    from mergesafe.cli.card import run

    run(
        out, evaluation=evaluation, gate=gate, threads=threads, json=json, quiet=quiet
    )  # fmt: skip


@guarded
def sign(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Local folder of a merged model.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="A private elliptic-curve key (PEM).")],
    password_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The environment variable with the key's password."),
    ] = None,
    threads: Threads = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Verify the merged model OUT and sign it, in the form of OpenSSF model signing.

    Writes OUT/model.sig. Needs the extra 'sign'.
    """
    from mergesafe.cli.sign import run

    run(out, key=key, password_env=password_env, threads=threads, quiet=quiet)


@guarded
def diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A folder, file, URL or Hub id; +ADAPTER or not.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    tensors: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="List the N tensors that differ most."),
    ] = 10,
    layers: Annotated[bool, typer.Option("--layers", help="Sums of every layer.")] = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit status 3 where anything differs.")
    ] = False,
    memory: Memory = None,
    threads: Threads = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what differs between the checkpoints A and B.

    Tensors: which only one has, and how far those of both are apart.
    Beside them: settings, tokenizers, chat templates, adapters, other files.
    """
    from mergesafe.cli.diff import run

    run(
        a, b, tensors=tensors, layers=layers, exit_code=exit_code, memory=memory,
        threads=threads, json=json, quiet=quiet,
    )  # fmt: skip
