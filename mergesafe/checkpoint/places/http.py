"""Models behind http(s): ranges that are checked to be ranges of the same file.

fsspec makes the client, with the user's configuration. Requests are made here because a server may
answer a request for a range with the whole file, a shard of gigabytes, and fsspec would take it.
Semantics: RFC 9110, sections 13 (conditions) and 14 (ranges).
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from fsspec.asyn import sync

from mergesafe.checkpoint.places.file_system import FileSystemStore, Info, why
from mergesafe.checkpoint.places.remote import LEAST_SPEED, WINDOW, PassingError, RemoteError
from mergesafe.references import redact

#: A server that is silent for so many seconds has failed; large answers may take longer.
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=30)
#: Seconds for the headers of an answer, those of redirects included.
HEADERS_TIME: float = 30.0
_REDIRECTS: Final = 5
_REDIRECTED: Final = (301, 302, 303, 307, 308)
_PASSING: Final = (408, 425, 429, 500, 502, 503, 504)
#: What another host gets of headers and options of a request.
_OURS: Final = ("Range", "Accept-Encoding", "If-Match")
_HARMLESS: Final = ("ssl", "proxy", "proxy_auth", "proxy_headers", "trace_request_ctx")
#: Settings of a client that go with every request.
_SECRET: Final = frozenset(("auth", "headers", "cookies", "cookie_jar"))
_ABSENT: Final = (404, 410)
#: Numbers of more digits than any size has are none.
_RANGE: Final = re.compile(r"bytes (?:\*|([0-9]{1,18})-([0-9]{1,18}))/([0-9]{1,18})")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_ENCODED: Final = "the server sent a compressed answer, which it was asked not to send"
_NO_RANGES: Final = (
    "the server does not support range requests: it answered one with the whole file"
)


class HttpStore(FileSystemStore):
    """A folder on a web server, which has no listing: only known names can be asked for."""

    def __init__(self, fs: Any, root: str, query: str) -> None:
        super().__init__(fs, root, redact(root))
        self.query = query

    def path(self, name: str) -> str:
        return super().path(quote(name)) + self.query

    def exists(self, name: str) -> bool:
        return self.is_dir(name) or super().exists(name)

    def is_dir(self, name: str) -> bool:
        return not name

    def names(self, name: str) -> list[str] | None:
        return None

    def find(self, name: str) -> Info | None:
        """A request for the first byte says whether there is a file, its size and its version."""
        found: Info | None = self._call(self._find, name)
        return found

    def fetch(self, name: str, begin: int, end: int, known: Info) -> bytes:
        data: bytes = self._call(self._fetch, name, begin, end, known)
        return data

    async def _find(self, name: str) -> Info | None:
        async with await self._get(name, 0, 1, {}) as response:
            if response.status in _ABSENT:
                return None
            total = _content_range(response)
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and total:
                return Info(0, version=_version(response))  # there is no first byte
            _check_status(response)
            if response.status == HTTPStatus.PARTIAL_CONTENT and total:
                return Info(total[2], version=_version(response))
            length = response.headers.get("Content-Length", "")
            size = int(length) if _LENGTH.fullmatch(length) and not _encoded(response) else None
            return Info(size, ranged=False, version=_version(response))

    async def _fetch(self, name: str, begin: int, end: int, known: Info) -> bytes:
        whole = (begin, end) == (0, known.size)
        if not known.ranged and not whole:
            raise RemoteError(_NO_RANGES)
        etag = known.version.get("etag", "")
        condition = {"If-Match": etag} if etag.startswith('"') else {}  # weak ones never match
        async with await self._get(name, begin, end, condition) as response:
            if response.status == HTTPStatus.PRECONDITION_FAILED:
                raise RemoteError("the file changed on the server while it was read")
            if response.status in _ABSENT:
                raise FileNotFoundError
            _check_status(response)
            if _version(response) != known.version:
                raise RemoteError("the file changed on the server while it was read")
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                if _content_range(response) != (begin, end - 1, known.size):
                    raise RemoteError("the server sent another range than was asked for")
            elif not whole:
                raise RemoteError(_NO_RANGES)
            if _encoded(response):
                raise RemoteError(_ENCODED)
            return await _read(response.content, end - begin)

    async def _get(self, name: str, begin: int, end: int, condition: dict[str, str]) -> Any:
        session = await self.fs.set_session()
        options = dict(self.fs.kwargs)
        headers = {
            **(options.pop("headers", None) or {}), **condition,
            "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity",
        }  # fmt: skip
        url = str(self.fs.encode_url(self.path(name)))
        return await asyncio.wait_for(self._follow(session, url, headers, options), HEADERS_TIME)

    async def _follow(
        self, session: Any, url: str, headers: dict[str, str], options: dict[str, Any]
    ) -> Any:
        """The answer to a request, after redirects.

        Another host gets no header but ours: what the user configured may be a key.
        """
        for _ in range(_REDIRECTS + 1):
            response = await session.get(
                self.fs.encode_url(url), headers=headers, timeout=_TIMEOUT, allow_redirects=False,
                **options,
            )  # fmt: skip
            if response.status not in _REDIRECTED:
                return response
            place = response.headers.get("Location", "")
            response.close()
            begin, url = url, _redirected(url, place)
            if _origin(begin) != _origin(url):
                if self.fs.client_kwargs.keys() & _SECRET:
                    raise RemoteError(
                        "the server redirects to another host, which would get the credentials "
                        "that fsspec is configured with"
                    )
                headers = {name: headers[name] for name in headers if name in _OURS}
                options = {key: options[key] for key in options if key in _HARMLESS}
        raise RemoteError(f"the server redirects more than {_REDIRECTS} times")

    def _call(self, request: Any, *arguments: Any) -> Any:
        """Run a coroutine on fsspec's thread, with its failures as ours."""
        try:
            return sync(self.fs.loop, request, *arguments)
        except (asyncio.IncompleteReadError, aiohttp.ClientPayloadError):
            raise PassingError("the answer was cut off") from None
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            raise RemoteError(why(error)) from None
        except asyncio.TimeoutError:
            raise PassingError(f"no answer within {HEADERS_TIME:g} s") from None
        except aiohttp.ClientError as error:
            raise PassingError(why(error)) from None
        except (OSError, PassingError):
            raise
        except Exception as error:  # of the libraries below, for what no server should send
            raise RemoteError(why(error)) from None


async def _read(stream: aiohttp.StreamReader, size: int) -> bytes:
    """``size`` bytes, which come at :data:`LEAST_SPEED` or faster."""
    clock = asyncio.get_running_loop().time
    data = bytearray()
    began, before = clock(), 0
    while len(data) < size:
        left = max(began + WINDOW - clock(), 0.0)
        try:
            piece = await asyncio.wait_for(stream.read(size - len(data)), left)
        except asyncio.TimeoutError:
            piece = b""
        else:
            if not piece:
                raise asyncio.IncompleteReadError(bytes(data), size)
        data += piece
        if clock() - began >= WINDOW:
            if len(data) < size and len(data) - before < LEAST_SPEED * WINDOW:
                raise PassingError(
                    f"the server sent {len(data) - before:,} bytes in {WINDOW:g} s, fewer than "
                    f"{LEAST_SPEED:,} a second"
                )
            began, before = clock(), len(data)
    return bytes(data)


def _redirected(url: str, place: str) -> str:
    """Where ``place`` leads from ``url``."""
    found = urlsplit(urljoin(url, place))
    if not place or found.scheme not in ("http", "https") or not found.hostname:
        raise RemoteError("the server redirects to what is no web address")
    if found.scheme == "http" and urlsplit(url).scheme == "https":
        raise RemoteError("the server redirects from https to http, which others can read")
    return found.geturl()


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def _encoded(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() != "identity"


def _check_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status < 400:
        return
    known = status in HTTPStatus.__members__.values()
    words = f"HTTP {status} {HTTPStatus(status).phrase}" if known else f"HTTP {status}"
    if status in _PASSING:
        raise PassingError(words)
    if status in (401, 403):
        words += (
            ": the server wants other credentials, or hides that there is no such file; give the "
            "URL of a .safetensors file to have no other names asked for"
        )
    raise RemoteError(words)


def _content_range(response: aiohttp.ClientResponse) -> tuple[int, int, int] | None:
    """First byte, last byte and size; -1 where an unsatisfied range has no first and last."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        return None
    first, last, total = match.groups("-1")
    return int(first), int(last), int(total)


def _version(response: aiohttp.ClientResponse) -> dict[str, str]:
    for header, name in (("ETag", "etag"), ("Last-Modified", "modified")):
        if header in response.headers:
            return {name: response.headers[header]}
    return {}
