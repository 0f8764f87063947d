"""``mergesafe serve``: a model behind the OpenAI protocol."""

from __future__ import annotations

import os
from importlib.util import find_spec

from mergesafe.chat.conversation import ChatModel
from mergesafe.chat.hf import HfModel
from mergesafe.cli.shared import say
from mergesafe.errors import ArgumentError, ModelError
from mergesafe.extras import install
from mergesafe.references import IN_CONTEXT, SQUAD


def run(
    model: str,
    *,
    name: str | None,
    host: str,
    port: int,
    token_env: str | None,
    batch: int,
    queue: int,
    max_new_tokens: int,
    device: str,
    dtype: str,
    quiet: bool,
) -> None:
    """Load the model, say where it is served, and serve it until interrupted.

    Raises:
        ArgumentError: the token is not in the environment, or the address cannot be served at.
        ModelError: aiohttp is missing, or the model cannot be loaded.
    """
    if find_spec("aiohttp") is None:
        raise ModelError(f"serving needs the package aiohttp: {install('serve')}")
    from mergesafe.serve.api import serve
    from mergesafe.serve.app import Limits

    for option, value in (
        ("--batch", batch),
        ("--queue", queue),
        ("--max-new-tokens", max_new_tokens),
    ):
        if value < 1:
            raise ArgumentError(f"{option} is {value}; expected 1 or more")
    if not 0 <= port <= 65_535:
        raise ArgumentError(f"--port is {port}; expected 0 to 65535")
    token = None
    if token_env is not None:
        token = os.environ.get(token_env)
        if not token:
            raise ArgumentError(f"--token-env: there is no token in the environment's {token_env}")
    made = _model(model, device, dtype, batch)
    served = name or made.name
    serve(
        made, served, host=host, port=port, token=token,
        limits=Limits(batch=batch, queue=queue, tokens=max_new_tokens),
        on_start=lambda address: None if quiet else say(
            f"serving {served} at {address}; Ctrl-C ends it"
        ),
    )  # fmt: skip


def _model(reference: str, device: str, dtype: str, batch: int) -> ChatModel:
    """The model; its files were found, and its weights read where they are of this process."""
    if reference.startswith((SQUAD, IN_CONTEXT)):
        from mergesafe.safety.wrapped import read_wrapped

        wrapped = read_wrapped(reference)
        if wrapped is not None:
            wrapped.check()
            return wrapped
    made = HfModel(reference, device=device, dtype=dtype, batch=batch)
    made.check()
    made.model  # noqa: B018  # loading it finds what is wrong with the weights
    return made
