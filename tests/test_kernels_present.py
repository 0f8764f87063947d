"""A package without its compiled kernels says so when it is imported, and what to do."""

from __future__ import annotations

import ast
import hashlib
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import mergesafe
from mergesafe import native
from mergesafe.native import INTERFACE

ROOT = Path(__file__).parents[1]
#: As the installed script of the command does.
SCRIPT = "from mergesafe.cli.main import main\nmain()\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The source, in which nothing was built."""
    package = Path(mergesafe.__file__).parent
    left_out = shutil.ignore_patterns("*.so", "__pycache__", "questions", "adapters")
    shutil.copytree(package, tmp_path / "clone" / "mergesafe", ignore=left_out)
    (tmp_path / "clone" / "csrc").mkdir()
    (tmp_path / "clone" / "setup.py").touch()
    return tmp_path / "clone"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in ``folder``, whose package comes first, as it does where one works in a clone."""
    environment = {"PYTHONPATH": str(folder), "PATH": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def last_line(folder: Path, *arguments: str) -> str:
    done = run(folder, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    return done.stderr.splitlines()[-1]


WORDS = ("holds no compiled kernels", "leave the folder", "pip install -e")


@pytest.mark.parametrize(
    "code", ["import mergesafe", "from mergesafe import ops", "import mergesafe.engine.api"]
)
def test_importing_in_a_clone(code: str, clone: Path) -> None:
    line = last_line(clone, "-c", code)
    assert line.startswith(f"ImportError: mergesafe is imported from {clone / 'mergesafe'}, which")
    for word in (*WORDS, str(clone)):
        assert word in line


@pytest.mark.parametrize("started", ["installed", "-m"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info"], ["plan", "r.yml"], []])
def test_the_command(started: str, arguments: list[str], clone: Path) -> None:
    """After `make clean`, an editable install has the command and no kernels."""
    script = clone.parent / "mergesafe"
    script.write_text(SCRIPT)
    command = ["-m", "mergesafe.cli"] if started == "-m" else [str(script)]
    done = run(clone, *command, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"mergesafe: error: mergesafe is imported from {clone}")
    assert done.stderr.count("\n") == 1
    for word in WORDS:
        assert word in done.stderr


def test_kernels_for_another_python(clone: Path) -> None:
    (clone / "mergesafe" / "_native.cpython-32-x86_64-linux-gnu.so").touch()
    line = last_line(clone, "-c", "import mergesafe")
    version = ".".join(map(str, sys.version_info[:2]))
    assert f"no compiled kernels for Python {version} (_native.cpython-32-" in line


def test_an_installation_that_is_incomplete(clone: Path) -> None:
    (clone / "setup.py").unlink()
    assert "--force-reinstall" in last_line(clone, "-c", "import mergesafe")


def test_a_program_that_is_started_by_its_name_as_a_module(clone: Path) -> None:
    """While Python looks for `-m`'s module, importing must not fail: the first use says it."""
    (clone / "program").mkdir()
    (clone / "program" / "__init__.py").write_text("import mergesafe\nmergesafe.merge\n")
    (clone / "program" / "__main__.py").touch()
    line = last_line(clone, "-m", "program")
    for word in (*WORDS, f"mergesafe is imported from {clone}"):
        assert word in line


@pytest.mark.parametrize("source", [True, False])
@pytest.mark.parametrize("arguments", [["info"], ["plan", "r.yml"], ["merge", "r.yml", "out"]])
def test_kernels_that_cannot_be_loaded(arguments: list[str], source: bool, clone: Path) -> None:
    (clone / "mergesafe" / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    if not source:
        (clone / "setup.py").unlink()
    done = run(clone, "-m", "mergesafe.cli", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        f"mergesafe: error: mergesafe is imported from {clone / 'mergesafe'}, whose compiled "
        "kernels cannot be loaded ("
    )
    assert ("pip install -e" if source else "--force-reinstall") in done.stderr
    assert "internal error" not in done.stderr
    line = last_line(clone, "-c", "import mergesafe as ms; ms.merge")
    assert line.startswith("mergesafe.errors.KernelsError: mergesafe is imported from")


@pytest.mark.parametrize("compiled", ["older", "newer"])
def test_kernels_of_another_version(compiled: str, clone: Path) -> None:
    """Kernels that were compiled before `git pull` may lack what the Python code calls."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    shutil.copy(Path(mergesafe.__file__).with_name(f"_native{suffix}"), clone / "mergesafe")
    code = clone / "mergesafe" / "native.py"
    written = f"INTERFACE: Final = {INTERFACE}\n"
    assert written in code.read_text()
    other = INTERFACE + (1 if compiled == "older" else -1)
    code.write_text(code.read_text().replace(written, f"INTERFACE: Final = {other}\n"))
    done = run(clone, "-m", "mergesafe.cli", "info")
    assert done.returncode == 2
    assert done.stderr == (
        f"mergesafe: error: {clone / 'mergesafe'}: the compiled module is {compiled} than the "
        f"Python code: run 'pip install -e {clone}' again.\n"
    )


def test_the_interface_has_a_number() -> None:
    """Whoever changes it gives a new number to INTERFACE and to csrc/bindings.cpp, and its digest
    to this test.
    """
    stub = Path(mergesafe.__file__).with_name("_native.pyi").read_text()
    tree = ast.parse(stub)
    for node in ast.walk(tree):  # what is said of it may change
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    known = native.extension
    lists = sorted(known.fused_kernels.items()), known.tile_functions, known.tile_score_functions
    digest = hashlib.sha256(f"{ast.unparse(tree)} {lists}".encode()).hexdigest()
    assert (INTERFACE, digest[:16]) == (2, "fa3ccd63c3c44584")


def test_with_its_kernels_nothing_is_said(clone: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    shutil.copy(Path(mergesafe.__file__).with_name(f"_native{suffix}"), clone / "mergesafe")
    done = run(clone, "-c", "import mergesafe; print(mergesafe.__file__)")
    assert done.stdout == f"{clone / 'mergesafe' / '__init__.py'}\n", done.stderr
    assert done.stderr == ""
