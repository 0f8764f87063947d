"""How a recipe names a model: a local path, a URL, or a model on the Hugging Face Hub.

URLs may carry secrets (``https://user:password@host/x?signature=...``), and messages, model cards
and manifests are shown to others: whatever is shown goes through :func:`redact` where it is known
to be one reference, and through :func:`redact_text` where it may be anything. Both take time in
proportion to the text, and what they have hidden they leave as it is.

Hidden are the user and the password (either may be a token), matrix parameters, the query and the
fragment of a URL; in chained URLs (``zip://a::https://...``), in a URL within a URL and in
percent-encoded ones too; and what looks like a key of a known service.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, Final
from urllib.parse import unquote

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: What fsspec, too, takes for a place on this machine.
_LOCAL: Final = re.compile(r"(?:file|local):(?://(?:localhost(?=/))?|(?=/))", re.IGNORECASE)
_HUB_ID: Final = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w.][\w./-]*))?", re.ASCII
)
HIDDEN: Final = "***"

#: Schemes that are known with one slash, too: a path library takes ``https://`` for ``https:/``.
_SCHEMES: Final = (
    "https?|ftps?|sftp|ssh|git|wss?|s3[an]?|gs|gcs|abfss?|wasbs?|az|adl|oss|oci|cos|obs|tos|hf|r2|b2"
    "|swift|webdavs?|davs?|smb|hdfs|webhdfs|github|gdrive|dropbox|box|postgres(?:ql)?|mysql|redis"
)
#: What ends a scheme. Patterns that are searched for begin with few characters and look behind
#: nowhere, which is ten times as fast.
_SEPARATOR: Final = re.compile(
    r"(?::|%(?:25){0,4}3[aA])(?P<slashes>(?:[/\\]|%(?:25){0,4}2[fF]){1,4})"
)
_SCHEME: Final = re.compile(
    rf"(?P<plain>(?:^|[^A-Za-z0-9+.-])(?:{_SCHEMES})$)|(?P<disk>(?:^|[^A-Za-z0-9+.-])(?:file|local)$)"
    r"|[A-Za-z0-9+.-]$",
    re.IGNORECASE,
)
#: The longest of the schemes above, and one character before it.
_LOOK_BACK: Final = 12
#: URLs of one text that are looked at; of further ones nothing is shown.
MAX_URLS: Final = 20_000
_REST: Final = re.compile(r"(:[/\\]{2,4}|%3[aA]%2[fF])[^\s\"]+")
#: Where a URL in running text ends: at white space, at a double quote, and at a closing quote.
_END: Final = re.compile(r"[\s\"]|'(?![^\s\"'),;:.\]}>])")
_AUTHORITY_END: Final = re.compile(r"[/?#;]")
_ENCODED: Final = re.compile(r"%(?:25){0,4}(?:40|3f|23|3b)", re.IGNORECASE)
_MATRIX: Final = re.compile(r";(?!\*\*\*)[^/?#]+")
_QUERY: Final = re.compile(r"[?#](?!\*\*\*|$)")
_PORT: Final = re.compile(r":[0-9]*")
_HIDDEN_USER: Final = f"{HIDDEN}@"

#: Keys of known services: how each begins, and what follows. Words with hyphens are no plain key.
_KEYS: Final = re.compile(
    r"(?:(?P<plain>hf_|gh[opusr]_|sk-|gsk_|xai-|r8_|npm_|AKIA|ASIA)(?P<letters>[A-Za-z0-9]{20,})"
    r"|(?P<kind>sk-(?=(?:proj|ant|or|svcacct|admin)-)|[sr]k_live_|github_pat_|glpat-|nvapi-|xox[abeprs]-"
    r"|hf_(?=jwt_)|dop_v1_|pypi-|AIza|ya29\.|SG\.|eyJ)"
    r"(?P<key>[A-Za-z0-9_-]{16,}(?:\.[A-Za-z0-9_-]+)*))"
)
_LETTER: Final = re.compile(r"[A-Za-z0-9]")
_DIGIT: Final = re.compile(r"[0-9]")
#: A key may be of letters alone; then they are of both cases, and many.
_MIXED: Final = re.compile(r"(?=.{0,200}?[a-z])(?=.{0,200}?[A-Z]).{30,}", re.DOTALL)
#: Parameters that hold a secret and nothing else, outside of a URL too.
_NAMED: Final = re.compile(
    r"(x-(?:amz|goog|oss|obs)-(?:signature|credential|security-token)|awsaccesskeyid"
    r"|(?:access|refresh|auth|id|hf)_token|(?:api|account|shared_?access)[_-]?key|client_secret"
    r"|sharedaccesssignature|secret_access_key|passw(?:or)?d)"
    r"(?:(=|%3D)(?!\*\*\*|(?:none|null|true|false)\b)[^\s\"'&<>,;)]{4,}"
    r"|([\"']? ?[:=] ?[\"']?)(?=[A-Za-z_.~+/-]{0,200}[0-9])[A-Za-z0-9_.~+/-]{12,})",
    re.IGNORECASE,
)
#: Parameters in the path of a URL, of a query that is cut off, or of an address without a scheme.
_LOOSE: Final = re.compile(
    r"((?:[/&,]|%3F|%26)(?:token|sig|signature|secret|key|pwd|auth)(?:=|%3D))"
    r"(?=[A-Za-z_.~%+/-]{0,200}[0-9])[^\s\"'&<>,;/)]{6,}",
    re.IGNORECASE,
)
_NO_SCHEME: Final = re.compile(r"((?:^|[\s\"'(=])//)[^\s\"'/@:]{1,100}:[^\s\"'/@]{1,200}@")
_AUTHORIZATION: Final = re.compile(
    r"(?P<name>bearer|basic) (?P<key>[A-Za-z0-9._~+/=-]{16,})", re.IGNORECASE
)


def is_url(reference: str) -> bool:
    """Whether ``reference`` is ``scheme://...`` and leads elsewhere, unlike ``file://``."""
    return _URL.match(reference) is not None and _LOCAL.match(reference) is None


def local_path(reference: str) -> str:
    """The path in ``file:///x``, ``file:/x`` or ``local:///x``; other text unchanged."""
    match = _LOCAL.match(reference)
    return unquote(reference[match.end() :]) if match else reference


#: What names a model with a squad around it, which answers and is no checkpoint: ``squad:FILE``.
SQUAD: Final = "squad:"
#: What names a model with demonstrations in front of every question: ``in-context:FILE``.
IN_CONTEXT: Final = "in-context:"


def hub_id(reference: str) -> tuple[str, str | None] | None:
    """``(org/name, revision)`` of ``[hf://]org/name[@revision]``; None for anything else."""
    match = _HUB_ID.fullmatch(reference.removeprefix("hf://"))
    return (match["repo"], match["revision"]) if match else None


def redact(reference: str) -> str:
    """``reference``, which is one path, URL or value, with what is secret in it as ``***``.

    A URL goes on to the end, so that a password may hold quotes and spaces.
    """
    return _keys(_urls(reference, None))


def redact_text(text: str) -> str:
    """``text`` with what is secret in it as ``***``; a URL ends at white space or a quote."""
    return _keys(_urls(text, _END))


def redact_values(value: Any, leave: Collection[str] = ()) -> Any:
    """Plain data without the secrets in its texts and keys, but for what lies below ``leave``."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {
            redact_text(key) if isinstance(key, str) else key: (
                each if key in leave else redact_values(each, leave)
            )
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_values(each, leave) for each in value]
    return value


def endpoint_name(url: str) -> str:
    """``scheme://host:port/path``: a URL without user, password, query and fragment."""
    name = re.split(r"[?#;]", redact(url), maxsplit=1)[0].rstrip("/")
    return name.replace(_HIDDEN_USER, "")


def _urls(text: str, end: re.Pattern[str] | None) -> str:
    """``text`` with its URLs redacted, each of which ends where ``end`` matches."""
    places, whole = _places(text)
    if not places and whole:
        return text
    parts = []
    done = last = 0
    for (_, begin, on_disk, encoded), (following, *_) in pairwise([*places, (len(text), 0, 0, 0)]):
        if begin < done:
            continue
        if begin > last:  # else it is a URL within the one before: chained, or in its path
            stop = end.search(text, begin) if end is not None else None
            last = len(text) if stop is None else stop.start()
        close = min(last, following)
        place, hidden = text[begin:close], False
        if not on_disk:
            place, hidden = _place(place, encoded=bool(encoded))
        parts += [text[done:begin], place]
        done = last if hidden else close  # a query may hold a URL
    rest = text[done:] if whole else _REST.sub(rf"\1{HIDDEN}", text[done:])
    return "".join((*parts, rest))


def _places(text: str) -> tuple[list[tuple[int, int, bool, bool]], bool]:
    """Of each ``://``: its begin and end, whether it leads to this disk, and is percent-encoded.

    And whether these are all.
    """
    found: list[tuple[int, int, bool, bool]] = []
    for count, mark in enumerate(_SEPARATOR.finditer(text)):
        if count == MAX_URLS:
            return found, False
        scheme = _SCHEME.search(text, max(0, mark.start() - _LOOK_BACK), mark.start())
        if scheme is None or not (scheme["plain"] or _is_separator(mark["slashes"])):
            continue
        found.append((mark.start(), mark.end(), bool(scheme["disk"]), "%" in mark[0]))
    return found, True


def _is_separator(slashes: str) -> bool:
    """Whether they follow a scheme that is not known: two slashes, as they are or encoded."""
    return "\\" not in slashes and len(slashes) > 1 and slashes.lower() != "%2f"


def _place(text: str, *, encoded: bool) -> tuple[str, bool]:
    """What follows ``scheme://``, redacted; whether what comes after it is to be left out."""
    if encoded and ("@" in text or _ENCODED.search(text)):
        return HIDDEN, True
    stop = _AUTHORITY_END.search(text)
    authority = text[: stop.start()] if stop else text
    at = authority.rfind("@")
    if at < 0 and "%40" in authority:
        at = authority.rfind("%40") + 2
    elif at < 0 and _is_credentials(authority):
        at = text.rfind("@")  # a password with a slash in it
    if at >= 0:
        text = _HIDDEN_USER + text[at + 1 :]
    text = _MATRIX.sub(f";{HIDDEN}", text)
    query = _QUERY.search(text)
    if query is None:
        return text, False
    return text[: query.end()] + HIDDEN, True


def _is_credentials(authority: str) -> bool:
    """Whether ``host:port`` has what is no port, and so is the begin of ``user:password@host``."""
    _, bracket, after = authority.rpartition("]")
    _, colon, port = (after if bracket else authority).partition(":")
    return bool(colon) and _PORT.fullmatch(colon + port) is None


def _keys(text: str) -> str:
    """``text`` without what looks like a key, wherever it stands."""
    text = _KEYS.sub(_hidden_key, text)
    if "=" in text or ":" in text or "%3" in text:
        text = _NAMED.sub(_hidden_value, text)
        text = _LOOSE.sub(rf"\1{HIDDEN}", text)
        text = _NO_SCHEME.sub(rf"\1{_HIDDEN_USER}", text)
    return _AUTHORIZATION.sub(_hidden_authorization, text)


def _hidden_key(found: re.Match[str]) -> str:
    within = found.start() > 0 and _LETTER.match(found.string, found.start() - 1)
    key = found["letters"] or found["key"]
    is_key = bool(_DIGIT.search(key) or _MIXED.match(key))
    if found["kind"] == "eyJ":  # begins many words in base64; tokens have three parts
        is_key = is_key and "." in key
    return found[0] if within or not is_key else f"{found['plain'] or found['kind']}{HIDDEN}"


def _hidden_value(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2] or found[3]}{HIDDEN}"


def _hidden_authorization(found: re.Match[str]) -> str:
    name, key = found["name"], found["key"]
    if name.lower() == "basic":  # user:password in base64
        is_key = b":" in _decoded(key)
    else:
        is_key = _DIGIT.search(key) is not None or _MIXED.match(key) is not None
    return f"{name} {HIDDEN}" if is_key or key.endswith("=") else found[0]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text[:400] + "=" * (-len(text[:400]) % 4))
    except ValueError:
        return b""
