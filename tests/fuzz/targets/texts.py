"""Vocabularies, templates, pickles, and what models and endpoints answer."""

from __future__ import annotations

import io
import pickle as pickler
import threading
import time
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from contextlib import suppress
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from fuzz import parts
from fuzz.target import target
from mergesafe.chat.conversation import Sampling
from mergesafe.chat.reasoning import part
from mergesafe.checkpoint.places.location import read_json_file
from mergesafe.data.prompts import parse_question
from mergesafe.errors import MergesafeError
from mergesafe.safety.evaluation.scoring import is_correct
from mergesafe.safety.judges.formats.llama_guard import LLAMA_GUARD_3, LLAMA_GUARD_4
from mergesafe.safety.judges.formats.shieldgemma import ShieldGemma
from mergesafe.safety.judges.formats.wildguard import WildGuard
from mergesafe.safety.refusal import rule
from mergesafe.safety.vet.contents import look
from mergesafe.safety.vet.opcodes import UNKNOWN, disassemble
from mergesafe.tokenizer import vocabulary

_GUARDS = (LLAMA_GUARD_3, LLAMA_GUARD_4, ShieldGemma(), WildGuard())


@target("vocabulary", ".parts")
def vocabularies(data: bytes, folder: Path) -> str:
    """Every file as what its name says, and the tokens that others add."""
    parts.unpack(data, folder)
    found = []
    names = frozenset(path.name for path in folder.iterdir())
    for name in sorted(names):
        kind = name if name in vocabulary.KINDS else ".tiktoken"
        try:
            tokens = vocabulary.read_vocabulary(folder / name, kind)
            found.append(len(tokens) + max(tokens.values()) * 0)
        except MergesafeError:
            continue
        if name == "tokenizer.json":
            vocabulary.vocabulary_of(read_json_file(folder / name, 1 << 20))
    return f"{found} {len(vocabulary.added_tokens(folder, names))}"


@target("sentencepiece", ".bin", binary=True)
def sentencepiece(data: bytes, folder: Path) -> int:
    path = folder / "tokenizer.model"
    path.write_bytes(data)
    return len(vocabulary.read_vocabulary(path, path.name))


@target("tokenizers", ".parts")
def tokenizers(data: bytes, folder: Path) -> str:
    """Two folders compared, as vetting does."""
    from mergesafe.safety.vet.tokenizers import check_tokenizer

    parts.unpack(data, folder)
    for name in ("one", "base"):
        (folder / name).mkdir(exist_ok=True)
    return str(len(list(check_tokenizer(folder / "one", folder / "base", 8))))


@target("template", ".jinja")
def template(data: bytes, folder: Path) -> str:
    from mergesafe.safety.vet.templates import check_template

    for name in ("one", "base"):
        (folder / name).mkdir()
    (folder / "one" / "chat_template.jinja").write_bytes(data)
    return str([each.severity for each in check_template(folder / "one", folder / "base")])


@target("pickle", ".pt", binary=True)
def pickle(data: bytes, folder: Path) -> str:
    from mergesafe.safety.vet.folder import check_folder

    for name in ("one", "base"):
        (folder / name).mkdir()
    (folder / "one" / "pytorch_model.bin").write_bytes(data)
    return str([each.severity for each in check_folder(folder / "one", folder / "base")])


class _Global:
    """Stands for whatever a pickle imports: does nothing, whatever is done to it."""

    def __new__(cls, *_: object, **__: object) -> _Global:
        return object.__new__(cls)

    def __setstate__(self, _: object) -> None:
        return


class _Unpickler(pickler.Unpickler):
    """Imports nothing, and keeps what it was asked to import."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.asked: list[tuple[str, str]] = []

    def find_class(self, module: str, name: str) -> type:
        self.asked.append((module, name))
        return _Global

    def persistent_load(self, _: object) -> None:
        return


@target("opcodes", ".pkl", binary=True)
def opcodes(data: bytes, folder: Path) -> str:
    """What Python's unpickler imports, the disassembler knows."""
    found = disassemble(io.BytesIO(data), len(data), time.monotonic() + 60)
    unpickler = _Unpickler(data)
    with suppress(Exception):
        unpickler.load()
    for module, name in unpickler.asked:
        module, name = NAME_MAPPING.get((module, name), (module, name))
        told = f"{IMPORT_MAPPING.get(module, module)}.{name}"
        # Of a name that is longer than any, not all is kept.
        told_of = told in found.imports or UNKNOWN in found.imports or len(told) > 9_000
        assert found.imports, told
        assert told_of, told
    return f"{len(found.imports)} {found.runs} {found.ended} {found.problem[:20]}"


@target("contents", ".pt", binary=True)
def contents(data: bytes, folder: Path) -> str:
    """The same in whatever file: what the process that looks through files does."""
    path = folder / "pytorch_model.bin"
    path.write_bytes(data)
    [found] = look({"files": [str(path)], "seconds": 60.0, "each": 60.0})
    return f"{len(found['imports'])} {found['problem'][:20]}"


@target("answers", ".txt")
def answers(data: bytes, folder: Path) -> str:
    """What models said: reasoning, refusals, verdicts of guards, questions, numbers."""
    text = data.decode("utf-8", "replace")
    parted = part(text)
    found = [rule(text, "Is it?").refused, bool(parse_question(text)), is_correct("12", text)]
    found += [each.verdict([text]).safe for each in _GUARDS]
    return f"{found} {len(parted.answer) > 0}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status, kind, body = 200, "application/json", b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(type(self).status)
        self.send_header("Content-Type", type(self).kind)
        self.send_header("Content-Length", str(len(type(self).body)))
        self.end_headers()
        self.wfile.write(type(self).body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@lru_cache
def _server() -> str:
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}/v1"


@target("endpoint", ".json", prepare=lambda: _prepared())
def endpoint(data: bytes, folder: Path) -> str:
    """An answer of an OpenAI-compatible endpoint, with a status that follows from its length."""
    from mergesafe.chat.openai import OpenAIModel

    odd = sum(data) % 16
    _Handler.status = {1: 400, 2: 404, 3: 429, 4: 500, 5: 204, 6: 302}.get(odd, 200)
    _Handler.kind = "application/json" if odd != 7 else "text/html"
    _Handler.body = data
    model = OpenAIModel("m", _server(), retries=0, timeout=5)
    said = model.respond([[{"role": "user", "content": "Why?"}]], Sampling())
    return str(said[0].finished)


def _prepared() -> None:
    try:
        endpoint(b"{}", Path())
    except MergesafeError:
        return
