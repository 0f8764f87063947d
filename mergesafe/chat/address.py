"""The address of an endpoint: checked before anything is sent, named without its secrets."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlsplit

from mergesafe.errors import ArgumentError
from mergesafe.references import endpoint_name, redact

_LONGEST = 2000


@dataclass(frozen=True)
class Address:
    """``base``: without query and fragment, with user and password; ``query``: what is sent with
    every request; ``host``: with the port where there is one.
    """

    base: str
    query: dict[str, str]
    host: str

    @property
    def name(self) -> str:
        """For messages."""
        return endpoint_name(self.base)


def read_address(url: str) -> Address:
    """The parts of ``url``.

    Raises:
        ArgumentError: it is no address of a web server.
    """
    odd = next((c for c in url if c.isspace() or not c.isprintable()), None)
    if odd is not None:
        raise _wrong(url, f"it holds the character {odd!a}")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        (host.encode("ascii") if ":" in host else host.encode("idna"))
        query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=100))
    except ValueError as error:
        raise _wrong(url, _reason(error)) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise _wrong(url, "it is not http:// or https://, a host and, if need be, a port")
    if len(url) > _LONGEST:
        raise _wrong(url, f"it has {len(url):,} characters")
    shown = f"[{host}]" if ":" in host else host
    bare = SplitResult(parts.scheme, parts.netloc, parts.path, "", "").geturl()
    return Address(bare, query, shown if port is None else f"{shown}:{port}")


def _wrong(url: str, why: str) -> ArgumentError:
    # Without a scheme nothing says where a password ends.
    shown = redact(url) if "://" in url or "@" not in url else "***"
    shown = ascii(shown if len(shown) <= 100 else f"{shown[:97]}...")
    return ArgumentError(
        f"the address {shown} of an endpoint ('base_url') cannot be used: {why}. Expected one such "
        "as http://localhost:8000/v1"
    )


def _reason(error: ValueError) -> str:
    """What Python says, without the text that it quotes."""
    if isinstance(error, UnicodeError):
        return "its host is no name of a host (a part of it is empty or longer than 63 characters)"
    return str(error).partition(": ")[0].partition(" '")[0] or type(error).__name__
