"""Serve a model until told to end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
from collections.abc import Callable

from aiohttp import web

from mergesafe.chat.conversation import ChatModel
from mergesafe.errors import ArgumentError
from mergesafe.serve.app import IDLE_SECONDS, Limits, make_app


def serve(
    model: ChatModel,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Answer ``POST /v1/chat/completions`` until SIGINT or SIGTERM.

    Args:
        model: what answers; it is loaded with the first request unless it was before.
        name: what requests call it.
        host: an address of this machine. Any that others reach needs a token.
        port: 0 takes a free one.
        token: what requests must bring, ``Authorization: Bearer TOKEN``.
        limits: of batches, queue, bodies and answers.
        on_start: told the address.

    Raises:
        ArgumentError: the address cannot be served at, or others reach it and there is no token.
    """
    if token is None and not is_loopback(host):
        raise ArgumentError(
            f"{host} can be reached from other machines, so the server needs a token; name the "
            "environment variable that holds it with --token-env, or serve at 127.0.0.1"
        )
    app = make_app(model, name, limits or Limits(), token)
    asyncio.run(_run(app, host, port, on_start or (lambda address: None)))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


async def _run(app: web.Application, host: str, port: int, on_start: Callable[[str], None]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    # Of malformed requests it logs tracebacks, with which whoever sends them could fill a disk.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=IDLE_SECONDS, handle_signals=False,
        handler_cancellation=True,  # so that a request ends with its connection
        shutdown_timeout=5,
    )  # fmt: skip
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ArgumentError(
                f"cannot serve at {host}:{port} ({error.strerror or error}); another --port?"
            ) from None
        served = runner.addresses[0]
        shown = f"[{served[0]}]" if ":" in served[0] else served[0]
        on_start(f"http://{shown}:{served[1]}/v1")
        await ended.wait()
    finally:
        await runner.cleanup()
