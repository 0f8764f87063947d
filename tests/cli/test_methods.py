"""``mergesafe methods``: the list, one page, methods of one's own, and wrong names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import command

from mergesafe.cli import methods as listing
from mergesafe.methods.reference.page import as_dict
from mergesafe.methods.registry import METHODS

from .helpers import refused

OWN = '''
from mergesafe.methods.authoring import tile_method

@tile_method(base="required")
def first(tile, settings):
    """The first expert."""
    return tile.inputs[0].clone()
'''


def names(*options: str) -> list[str]:
    done = command("methods", *options)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split()[0] for line in done.stdout.splitlines()]


def test_the_list_names_every_method_and_can_be_narrowed() -> None:
    assert names() == list(METHODS)
    assert {"linear", "nuslerp"} <= set(names("--no-base"))
    assert "ties" not in names("--no-base")
    assert set(names("--no-base")) - set(names("--no-base", "--no-data")) >= {"fisher", "regmean"}
    assert "karcher" not in names("--gradient")
    assert names("--quiet") == []
    listed = json.loads(command("methods", "--json").stdout)
    assert [each["name"] for each in listed["methods"]] == list(METHODS)
    assert listed["offered"] == {}


def test_one_method_is_its_page_where_there_is_no_terminal() -> None:
    done = command("methods", "ties")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# TIES\n")
    assert "(../" not in command("methods", "fisher").stdout  # links within the documentation
    shown = json.loads(command("methods", "ties", "--json").stdout)
    assert shown == json.loads(json.dumps(as_dict(METHODS["ties"])))


def test_a_terminal_gets_it_formatted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(listing, "sys", terminal)
    listing.run("ties", no_base=False, no_data=False, gradient=False, json=False, quiet=False)
    shown = capsys.readouterr().out
    assert "TIES" in shown
    assert "| ---" not in shown


def test_a_wrong_name_and_filters_of_one_method_are_refused() -> None:
    refused("methods", "TIES", words=("unknown merge method 'TIES'", "did you mean 'ties'?"))
    refused("methods", "tiess", words=("unknown merge method 'tiess'", "did you mean 'ties'?"))
    refused("methods", "no_module_here:first", words=("there is no module 'no_module_here'",))
    refused("methods", "ties", "--gradient", words=("--gradient", "leave out 'ties'"))


def test_a_method_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_listing.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = command("methods", "own_listing:first")
    assert done.stdout.startswith("# first\n\n`own_listing:first`: The first expert.\n")
    assert "merge_method: own_listing:first\nbase_model: ./base\n" in done.stdout


def test_it_starts_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['mergesafe', 'methods', 'ties', '--quiet']\n"
        "from mergesafe.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "[]\n", done.stderr
