"""No command publishes a secret of a URL: not on screens, in files, or in a mistake's words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import endpoint
import pytest
import tiny
import web
from family import Family

from mergesafe import plan
from mergesafe.checkpoint.places import remote
from mergesafe.errors import MergesafeError

#: In forms that no output happens to hold.
USER, WORD, KEY, SIGN = "us3rTok3n", "pa55W0rd", "k3yT0k3n5ecret0abcdef", "s1gnatur3"
SECRETS = (USER, WORD, KEY, SIGN)


def variants() -> list[bytes]:
    """The secrets, and what an encoder would make of them."""
    found = []
    for secret in SECRETS:
        text = secret.encode()
        hexed = [
            "".join(f"{mark}{byte:02x}" for byte in text) for mark in ("%", "\\x", "\\u00", "")
        ]
        found += [text, text.upper(), text.lower(), quote(secret).encode()]
        found += [each.encode() for each in hexed] + [each.upper().encode() for each in hexed]
        for shift in range(3):  # base64 of a text that the secret is a part of
            packed = base64.b64encode(b"x" * shift + text)
            found.append(packed[4 if shift else 0 : len(packed) // 4 * 4 - 4])
    return found


VARIANTS = variants()


def hidden(*places: Path | str | bytes) -> None:
    """No secret is in these texts, nor in any file below these folders."""
    for place in places:
        if isinstance(place, Path):
            for path in [place] if place.is_file() else sorted(place.rglob("*")):
                hidden(str(path), path.read_bytes() if path.is_file() else b"")
            continue
        data = place.encode() if isinstance(place, str) else place
        for each in VARIANTS:
            assert each not in data, (each, data[max(0, data.find(each) - 200) :][:400])


def ran(*arguments: object, status: int = 0) -> str:
    done = tiny.command(*arguments)
    assert done.returncode == status, done.stderr
    hidden(done.stdout, done.stderr)
    return str(done.stdout)


@pytest.fixture
def site(family: Family) -> Iterator[web.Web]:
    with web.serve(web.Web(family.folder)) as served:
        yield served


def test_merge_and_what_reads_it(family: Family, site: web.Web, tmp_path: Path) -> None:
    host = site.url.removeprefix("http://")
    escaped = "".join(f"\\x{ord(c):02x}" for c in f"//{USER}:{WORD}@")
    lines = [
        f"# http://{USER}:{WORD}@{host}/one?sig={SIGN}&AWSAccessKeyId={KEY}; api_key={KEY}",
        f"name: hf_{KEY}",
        "merge_method: ties",
        f'base_model: &base "http:{escaped}{host}/base"',
        "models:",
        "  - {model: *base}",
        f'  - model: "http://{USER}:{WORD}@{host}/o\\x6ee?sig=\\\n      {SIGN}"',
        "    parameters: {weight: 0.5, density: 0.5}",
        f"  - model: {{model: {{path: 'http://{USER}@{host}/two?X-Amz-Signature={SIGN}#t={KEY}'}}}}",
        "    parameters: {weight: 0.5, density: 0.5}",
    ]
    recipe = tiny.write_recipe(tmp_path / "recipe.yml", "\n".join(lines))
    out = tmp_path / "out"
    planned = json.loads(ran("plan", recipe, "--json"))
    assert planned["base"] == f"http://***@{host}/base"
    ran("merge", recipe, out, "--trace", tmp_path / "trace.json")
    assert f"http://***@{host}/base" in (out / "mergesafe-recipe.yml").read_text()
    assert any(SIGN in path for path, _ in site.asked)
    ran("merge", recipe, out, "--resume", "--json")
    ran("verify", out)
    ran("similarity", f"http://{USER}:{WORD}@{host}/one", f"http://{USER}@{host}/two?sig={SIGN}",
        "--base", f"http://{USER}@{host}/base", "--out", tmp_path / "alike.json")  # fmt: skip
    ran("report", out, tmp_path / "alike.json", "-o", tmp_path / "report.html")
    hidden(out, tmp_path / "trace.json", tmp_path / "report.html", tmp_path / "alike.json")


@pytest.mark.parametrize(
    "reference",
    [
        f"https://{USER}:{WORD}@[::1]:99999/x", f"https://{USER}@127.0.0.1:1/x?sig={SIGN}",
        f"s3://{KEY}:{WORD}/{USER}@bucket/x", f"simplecache::https://{USER}:{WORD}@127.0.0.1:1/x",
        f"zip://x::https://{USER}@127.0.0.1:1/x", f"https://127.0.0.1:1/x;token={KEY}/y",
        f"https://127.0.0.1:1/x#access_token={KEY}", f"https%3A%2F%2F{USER}%3A{WORD}%40host%2Fx",
        f"nosuch://{USER}:{WORD}@host/x", f"https:/{USER}:{WORD}@host/x", f"hf_{KEY}", f"sk-{KEY}",
        f"https://{USER}:{WORD}@host/x+y+z", f"HTTPS://{USER}:{WORD}@127.0.0.1:1/X",
    ],
    ids=map(str, range(14)),
)  # fmt: skip
def test_mistakes(reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "DELAYS", ())
    content = tiny.recipe("linear", [reference, "other"], each={"weight": 0.5})
    recipe = tiny.write_recipe(tmp_path / "recipe.yml", content)
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(f'merge_method: "{reference}"\nmodels: {reference}\n"{reference}": 1\n')
    for each in (recipe, wrong, content):
        with pytest.raises(MergesafeError) as caught:
            plan(each)
        error = caught.value
        hidden(f"{error} {error.args} {error.paragraphs}".replace(str(tmp_path), ""))


def test_evaluation_gate_and_report(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    (tmp_path / "unsafe.txt").write_text("unsafe 1\nunsafe 2\n")
    with endpoint.serve() as end:
        place = end.url.removeprefix("http://")
        model = f"m@http://{USER}:{WORD}@{place}?sig={SIGN}&api_key={KEY}#{KEY}"
        guard = f"llama-guard-3:g@http://{USER}@{place}?sig={SIGN}"
        found, cache, out = tmp_path / "evaluation.json", tmp_path / "cache", tmp_path / "out"
        out.mkdir()
        asked = ("--unsafe", tmp_path / "unsafe.txt", "--judge", "rules", "--judge", guard)
        end.answer = lambda messages: "safe" if "safe" in str(messages)[:60] else "I can't help."
        ran("evaluate", model, *asked, "--out", found, "--cache", cache)
        ran("evaluate", f"named={model}", *asked, "--json", "--cache", cache)
        ran("gate", model, "--evaluation", found, "--require", "safe_rate>=0", "--junit",
            out / "junit.xml", "--out", out / "gate.json")  # fmt: skip
        ran("report", found, out, "-o", tmp_path / "report.html")
        end.faults = [500] * 99
        recipe = tmp_path / "data.yml"
        spec = {"provider": "openai", "model": "m", "base_url": model[2:], "retries": 0}
        sets = {"s": {"kind": "safety", "questions": {"provider": "template"}, "pool": [spec],
                      "count": 2}}  # fmt: skip
        recipe.write_text(json.dumps({"sets": sets}))
        ran("generate", recipe, "--out", out / "data", status=2)
        end.faults = []
        ran("generate", recipe, "--out", out / "data", "--resume")
    hidden(found, cache, out, tmp_path / "report.html")
