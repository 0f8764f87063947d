"""The page: self-contained, escaped, masked, and complete."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mergesafe.report.content import Content
from mergesafe.report.find import read_documents
from mergesafe.report.page import render
from mergesafe.report.sections.data import MAX_CHARACTERS, MAX_QUESTIONS

from .documents import (
    EVIDENCE,
    FIXTURES,
    Json,
    content_of,
    document,
    evaluation,
    manifest,
    rate,
    write,
)

SHARE = {"value": 0.5, "low": 0, "high": 1, "n": 3}
VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<img src=https://evil.example/x onerror=alert(1)>\"'</title></style>{{ 7*7 }}\u202e"


class PageParser(HTMLParser):
    """Collects what a browser would see, and that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids.update(value for name, value in attrs if name == "id" and value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> str:
    return render(Content(read_documents([FIXTURES])))


@pytest.fixture(scope="module")
def checked(page: str) -> PageParser:
    return PageParser(page)


def test_every_section_is_there(checked: PageParser) -> None:
    sections = (
        "gate", "plane", "metrics", "examples", "judges", "vet", "similarity", "tuning", "blame",
        "data", "manifest", "files",
    )  # fmt: skip
    assert set(sections) <= set(checked.ids)


def test_ids_are_unique_and_references_lead_somewhere(checked: PageParser) -> None:
    assert [name for name, count in checked.ids.items() if count > 1] == []
    led = {"href": 0, "aria-labelledby": 0}
    for _, name, value in checked.attributes:
        if name == "href" and value.startswith("#"):
            assert value[1:] in checked.ids
            led[name] += 1
        if name == "aria-labelledby":
            assert all(each in checked.ids for each in value.split())
            led[name] += 1
    assert min(led.values()) > 0


def test_nothing_is_loaded_or_run(page: str, checked: PageParser) -> None:
    assert not {"script", "iframe", "object", "embed", "form", "img", "audio", "base"} & set(
        checked.tags
    )
    for _, name, value in checked.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "srcset", "action", "style")
        if name == "href":
            assert value.startswith("#") or value == "data:,"
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_allows_this_style_sheet_alone(page: str) -> None:
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    assert "unsafe" not in policy


def test_figures_have_titles_and_tables(checked: PageParser) -> None:
    assert checked.tags["svg"] > 10
    assert checked.tags["title"] == checked.tags["svg"] + 1
    assert checked.tags["desc"] == checked.tags["svg"]
    tables = [i for i in checked.ids if i.endswith("-table")]
    for figure in ("similarity-0-cosine", "coefficients-0-0", "blame-0-gradient", "metrics"):
        assert f"{figure}-table" in tables


def test_a_typical_page_is_small(page: str) -> None:
    assert len(page.encode()) < 300_000


def test_names_of_strangers_are_harmless(tmp_path: Path) -> None:
    """The same hostile text in every place where a file may hold a text."""
    half = rate(0.5, 0.4, 0.6)
    h = HOSTILE
    example = {"set": h, "question": h, "response": h, "safe": True, "refused": True}
    measured = evaluation({h: {"safe_rate": half, f"domain.{h}": half}, "m": {"safe_rate": half}})
    measured["models"][0]["examples"] = [example]
    measured |= {
        "judges": [{"name": h, "version": h}],
        "sets": [
            {"name": h, "role": "unsafe", "path": h, "sha256": h, "duplicates": 0, "records": 1}
        ],
        "comparisons": [
            {
                "first": h,
                "second": "m",
                "metric": h,
                "difference": 0.1,
                "low": 0,
                "high": 1,
                "p": 0.5,
            }
        ],
        "meaning": {},
        "agreement": [{"first": h, "second": h, "about": "safe", "kappa": 0.1, "n": 3}],
        "calibration": [
            {
                "judge": h, "metric": h, "sensitivity": SHARE, "specificity": SHARE,
                "corrected": [{"model": h, "metric": h, "value": None, "low": 0, "high": 1}],
            }
        ],
        "notes": [h],
    }  # fmt: skip
    pair = {"first": h, "second": "m", "cosine": [0.1], "cka": [None], "kl": 1.0}
    finding = {"severity": "unfit", "area": "files", "what": h, "where": h}
    requirement = {"text": f"{h}>=0.5", "metric": h, "bound": 0.5, "met": False, "reason": h}
    identity = {"name": h, "reference": h, "identity": h}
    evidence = {
        **EVIDENCE, "model": identity, "baseline": identity, "judges": measured["judges"],
        "sets": measured["sets"], "evaluation": {"path": h, "sha256": h},
    }  # fmt: skip
    constraint = {"text": h, "metric": h, "bound": 0.5, "met": False}
    table = {"models": [h], "groups": [h], "gradient": [[0.5]]}
    content = content_of(
        tmp_path,
        measured,
        document("similarity", models=[h, "m"], base=h, layers=[h], pairs=[pair], notes=[h]),
        document("vet", models=[{"name": h, "fit": False, "findings": [finding]}]),
        document(
            "gate", model=h, baseline=h, requirements=[requirement], passed=False,
            evidence=evidence,
        ),
        document(
            "data_card", path=h, records=1, name=h, topics={h: 1}, discarded={h: 1},
            answered_by={h: 1}, judge=h, asked_by=h, warnings=[h],
        ),
        document(
            "tuning", models=[h], groups=[h], coefficients={h: [[0.5]]}, recipe=h, granularity=h,
            history=[{"step": i, "objective": i, "terms": {h: i}} for i in range(3)], blame=table,
            constraints=[constraint], warnings=[h], searches=[h],
        ),
    )  # fmt: skip
    write(tmp_path / "<b>" / "mergesafe-manifest.json", {
        **manifest(h, [h]), "files_sha256": {h: h}, "digest": h, "merge_method": h,
    })  # fmt: skip
    content = Content(read_documents([tmp_path]))
    page = render(content)
    checked = PageParser(page)
    assert not {"img", "script"} & set(checked.tags)
    assert "\u202e" not in page
    assert "{{ 7*7 }}" in checked.text
    for _, name, value in checked.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "style")
        assert name == "title" or name.startswith("aria-") or "evil" not in value


def answers(safe: bool | None, role: str = "unsafe", **judged: object) -> Json:
    example = {"set": "s", "question": "Q?", "response": "SECRET ANSWER", "safe": safe, **judged}
    found = evaluation({"m": {"safe_rate": rate(0.5, 0.4, 0.6)}})
    found["models"][0]["examples"] = [example]
    found["sets"] = [{"name": "s", "role": role, "records": 1}]
    return found


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (answers(True), True),
        (answers(False), False),
        (answers(None), False),
        (answers(None, refused=True), False),
        (answers(False, refused=True), False),
        (answers(False, "domain", correct=True), False),
        (answers(None, "harmless"), False),
        (answers(None, "harmless", refused=False), False),
        (answers(None, "harmless", refused=True), True),
        (answers(None, "domain", correct=True), True),
        (answers(None, "domain", correct=False), False),
        (answers(None, "domain", correct=True, response="1\nSECRET ANSWER"), False),
        (answers(None, "harmless", refused=True, response="No." * 40 + "SECRET"), False),
    ],
)
def test_only_answers_found_safe_are_in_the_file(tmp_path: Path, found: Json, shown: bool) -> None:
    page = render(content_of(tmp_path, found))
    assert ("SECRET" in page) is shown
    assert (", masked" in page) is not shown


def test_answers_to_a_set_that_is_not_described_count_as_to_unsafe_questions(
    tmp_path: Path,
) -> None:
    found = answers(None, "harmless", refused=True)
    found["sets"] = []
    assert "SECRET" not in render(content_of(tmp_path, found))


def test_a_set_that_any_file_calls_unsafe_is_unsafe(tmp_path: Path) -> None:
    found = answers(None, "harmless", refused=True)
    other = {**found, "sets": [{**found["sets"][0], "role": "unsafe"}]}
    assert "SECRET" not in render(content_of(tmp_path, found, other))


def test_equal_answers_are_shown_once(tmp_path: Path) -> None:
    found = answers(True)
    found["models"].append({**found["models"][0], "name": "n"})
    found["models"][0]["examples"] *= 2  # as of two seeds
    page = render(content_of(tmp_path, found))
    assert page.count("SECRET") == 1
    assert "<b>m, n</b>" in page


def test_long_answers_and_many_questions_are_cut(tmp_path: Path) -> None:
    found = answers(True)
    example = found["models"][0]["examples"][0]
    found["models"][0]["examples"] = [
        {**example, "question": f"Q{i}?", "response": "x" * 5000} for i in range(MAX_QUESTIONS + 3)
    ]
    text = PageParser(render(content_of(tmp_path, found))).text
    assert "3 more questions of this set" in text
    assert f"{5000 - MAX_CHARACTERS:,} more characters" in text
    assert f"Q{MAX_QUESTIONS}?" not in text


def test_questions_on_which_models_differ_come_first(tmp_path: Path) -> None:
    found = answers(True)
    (example,) = found["models"][0]["examples"]
    both = [{**example, "question": "Same?"}, {**example, "question": "Differs?"}]
    found["models"][0]["examples"] = both
    found["models"].append(
        {**found["models"][0], "name": "n", "examples": [both[0], {**both[1], "safe": False}]}
    )
    text = PageParser(render(content_of(tmp_path, found))).text
    assert text.index("Differs?") < text.index("Same?")


def test_secrets_of_urls_are_not_shown(tmp_path: Path) -> None:
    recipe = "models: [{model: 'https://me:secret@host/m?token=secret'}]\n"
    write(tmp_path / "out" / "mergesafe-manifest.json", manifest(recipe, ["a"]))
    page = render(Content(read_documents([tmp_path])))
    assert "https://***@host/m" in page
    assert ":secret" not in page
    assert "=secret" not in page


def test_many_models_and_layers_stay_under_the_size_promised(tmp_path: Path) -> None:
    """70B-like: 80 layers, six parents, fifteen pairs, coefficients of every layer."""
    names, layers = [f"parent-{i}" for i in range(6)], [str(i) for i in range(80)]
    values = [[0.1234 * (i + j) % 1 for j in range(80)] for i in range(15)]
    kinds = ("cosine", "l2", "sign_conflict", "norm_ratio", "cka")
    pairs = [
        {"first": a, "second": b, **dict.fromkeys(kinds, values[i])}
        for i, (a, b) in enumerate((a, b) for a in names for b in names if a < b)
    ]
    content = content_of(
        tmp_path,
        document("similarity", models=names, base="b", layers=layers, pairs=pairs),
        document("tuning", models=names, groups=layers, coefficients={"weight": values[:6]}),
    )
    assert len(render(content).encode()) < 500_000
