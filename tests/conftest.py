"""Fixtures shared by all tests: tiny checkpoints that transformers can load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mergesafe.cli.threads import set_thread_defaults

# Before torch is imported: threads that spin take many times as long beside other work.
set_thread_defaults()

import pytest  # noqa: E402
import tiny  # noqa: E402
from family import Family  # noqa: E402
from golden_merges import Golden  # noqa: E402

# Tests that need a Hub bring their own: without this, a recipe with a wrong path would ask the real
# one. Set before huggingface_hub is imported, and inherited by the commands that tests run.
os.environ["HF_HUB_OFFLINE"] = "1"

_GOLDEN = pytest.StashKey[Golden]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-golden",
        action="store_true",
        help="record the bytes of the merges that tests make",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_GOLDEN] = Golden.load(record=config.getoption("--record-golden"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    golden = session.config.stash[_GOLDEN]
    if golden.record:
        golden.save()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    golden = config.stash[_GOLDEN]
    if golden.seen:
        terminalreporter.write_line(golden.summary())


@pytest.fixture(autouse=True)
def golden_merges(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test, compare the merged models below its ``tmp_path`` with the recorded ones."""
    wanted = "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") if wanted else None
    yield
    if folder is not None and (problems := request.config.stash[_GOLDEN].check(folder)):
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """Fresh bf16 checkpoints ``base``, ``one`` and ``two``, which a test may change."""
    names = ("base", "one", "two")
    base, one, two = (tiny.save(tmp_path / n, tiny.llama(i)) for i, n in enumerate(names))
    for folder in (base, one, two):
        (folder / "tokenizer.json").write_text("{}")  # there, and no more than that
    return Family(tmp_path, base, (one, two))
