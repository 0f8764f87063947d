"""The tutorial docs/own-methods.md, done from its first line to its last."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import command, llama, process, read, recipe, same_bits, save
from tune.models import make_models
from tune.test_objectives import SAFETY

import mergesafe as ms
from mergesafe.chat.records import write_records
from mergesafe.engine.resume.unfinished import subject_of
from mergesafe.errors import MergesafeError
from mergesafe.methods import registry
from mergesafe.ops.methods import run
from mergesafe.tune.api import tune
from mergesafe.tune.section.coefficients import default_coefficients

PAGE = Path(__file__).parents[2] / "docs" / "own-methods.md"
EXPERTS = "math", "chat", "code"
#: A method of the tutorial, and whether it takes the base.
METHODS = {"median": True, "directions": False, "leading": True, "Agreement": True, "Tenth": True}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, recipe and module as the tutorial has them."""
    made = tmp_path_factory.mktemp("tutorial")
    for seed, name in enumerate(("base", *EXPERTS)):
        save(made / name, llama(seed))
    (made / "methods").mkdir()
    module = [block for block in blocks("python") if block.startswith("# robust.py\n")]
    (made / "methods" / "robust.py").write_text("\n\n".join(module))
    [written] = [block for block in blocks("yaml") if block.startswith("# median.yml\n")]
    (made / "median.yml").write_text(written)
    return made


@pytest.fixture
def imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, with its module where this process can import it."""
    monkeypatch.syspath_prepend(str(folder / "methods"))
    registry._imported.cache_clear()
    yield folder
    sys.modules.pop("robust", None)
    registry._imported.cache_clear()


def environment(*folders: Path) -> dict[str, str]:
    before = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, folders), *before])}


def expected(name: str, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The same on tensors in memory."""
    base, *experts = (read(folder / model) for model in ("base", *EXPERTS))
    return {
        tensor: run(
            f"robust:{name}", [x[tensor] for x in experts], base[tensor] if METHODS[name] else None,
            name=tensor, out_dtype=torch.float32, **options,
        )
        for tensor in base
    }  # fmt: skip


def test_the_commands_give_the_bits_of_plain_tensors(imported: Path) -> None:
    for block in blocks("console"):
        for line in re.findall(r"^\$ PYTHONPATH=methods mergesafe (.*)$", block, re.MULTILINE):
            done = process(*line.split(), cwd=imported, env=environment(imported / "methods"))
            assert done.returncode == 0, done.stderr
    merged = read(imported / "merged")
    for tensor, values in expected("median", imported, scale=0.8).items():
        assert same_bits(merged[tensor], values), tensor


def test_a_changed_function_is_not_resumed(imported: Path) -> None:
    """Neither as a finished merge nor as an unfinished one."""
    module = imported / "methods" / "robust.py"
    written = module.read_text()
    settings = {"cwd": imported, "env": environment(module.parent)}
    assert process("merge", "median.yml", "changed", **settings).returncode == 0
    assert process("merge", "median.yml", "changed", "--resume", **settings).returncode == 0
    plan = ms.plan(imported / "median.yml").plan
    assert read_json(imported / "changed")["method_files"] == plan.method_files
    before = subject_of(plan, "error")["options"]
    try:
        module.write_text(written.replace("0.5 *", "0.4 *"))
        done = process("merge", "median.yml", "changed", "--resume", **settings)
        assert done.returncode == 2
        assert "the file of a merge method (robust:median) has changed since" in done.stderr
        after = subject_of(ms.plan(imported / "median.yml").plan, "error")["options"]
    finally:
        module.write_text(written)
    assert [name for name in after if after[name] != before[name]] == [
        "the file of the merge method 'robust:median' (its SHA-256)"
    ]


def read_json(folder: Path) -> Any:
    return json.loads((folder / "mergesafe-manifest.json").read_text())


@pytest.mark.parametrize("name", [name for name in METHODS if name != "median"])
def test_every_method_merges_checkpoints(name: str, imported: Path) -> None:
    content = yaml.safe_load((imported / "median.yml").read_text())
    content["merge_method"] = f"robust:{name}"
    del content["parameters"]
    if not METHODS[name]:
        del content["base_model"]
    file = imported / f"{name}.yml"
    file.write_text(yaml.safe_dump(content))
    out = f"merged-{name}"
    done = command("merge", file, out, cwd=imported)
    assert done.returncode == 0, done.stderr
    merged = read(imported / out)
    for tensor, values in expected(name, imported).items():
        if registry.get_method(f"robust:{name}").exact == "bits":
            assert same_bits(merged[tensor], values), tensor
        else:  # LAPACK may cut its work by the number of threads: units in the last place
            assert torch.allclose(merged[tensor], values, rtol=0, atol=2e-6), tensor


def test_the_page_holds_on_plain_tensors(imported: Path) -> None:
    for block in blocks("python"):
        if not block.startswith("# robust.py\n"):
            exec(compile(block, str(PAGE), "exec"), {})


def test_it_is_tuned_by_gradient(imported: Path, tmp_path: Path) -> None:
    [section] = [yaml.safe_load(b)["tune"] for b in blocks("yaml") if b.startswith("tune:")]
    method = registry.get_method("robust:median")
    assert default_coefficients(method, gradient=True) == tuple(section["coefficients"])
    base, *experts = make_models(tmp_path)
    (tmp_path / "safety.jsonl").write_text(write_records(SAFETY))
    data = [{"path": str(tmp_path / "safety.jsonl"), "role": "safety"}]
    content = recipe("robust:median", experts, base, parameters={"scale": 0.6})
    content["tune"] = {**section, "data": data, "granularity": "model", "budget": {"steps": 3}}
    result = tune(content, tmp_path / "tuned.yml")
    assert result.objective < result.start
    tuned = yaml.safe_load((tmp_path / "tuned.yml").read_text())
    assert tuned["merge_method"] == "robust:median"
    assert tuned["parameters"]["scale"] != 0.6
    ms.merge(tmp_path / "tuned.yml", tmp_path / "out")


def test_an_entry_point_names_it(imported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [declared] = blocks("toml")
    [group] = re.findall(r'entry-points\."(.*)"\]\n', declared)
    [(name, path)] = re.findall(r'^(\w+) = "(.*)"$', declared, re.MULTILINE)

    def offered(**chosen: str) -> list[EntryPoint]:
        assert chosen == {"group": group}
        return [EntryPoint(name, path, group)]

    monkeypatch.setattr("importlib.metadata.entry_points", offered)
    registry.offered_methods.cache_clear()
    try:
        assert registry.get_method(name).name == name
    finally:
        registry.offered_methods.cache_clear()
    assert f"merge_method: {name}\n" in PAGE.read_text()


def test_the_current_folder_is_not_searched(folder: Path) -> None:
    done = process("plan", "../median.yml", cwd=folder / "methods", env=environment())
    assert done.returncode == 2
    assert "there is no module 'robust'" in done.stderr
    assert "PYTHONPATH" in done.stderr


WRONG = {
    "@tile_method\ndef wrong(tile, settings): return 1": r"positional.*\(.*wrong\.py, line 4\)",
    "def wrong(tile, settings: return 1": "SyntaxError",
    "def wrong(tile, settings): return 1": r"is <function wrong.*@tile_method",
    "@tile_method(base='requird')\ndef wrong(tile, settings): return 1":
        "declares base = 'requird'",
    "@tile_method(parameters=Parameter('k', 'float', ''))\ndef wrong(tile, settings): return 1":
        "expected a tuple of Parameter",
    "@tile_method()\ndef wrong(tile, settings): return tile.deltas[0]":
        "tile.deltas, but there is no separate base",
    "@tile_method()\ndef wrong(tile, settings): return tile.inputs[0].bfloat16()":
        "returned bfloat16 on cpu; expected a float32 tensor",
    "@tile_method()\ndef wrong(tile, settings): return tile.inputs[0].sum()": r"the shape \[\]",
    "@tile_method()\ndef wrong(tile, settings): return tile.inputs[0] * float('nan')":
        "returned NaN, though all operands are finite",
    "@tile_method()\ndef wrong(tile, settings): return tile.inputs[0].mul_(2)":
        "wrote to a tensor that it was given",
    "@tile_method()\ndef wrong(tile, settings):\n  return settings.shared['k']":
        r"KeyError: 'k' \(.*wrong\.py, line 6\)",
    "class wrong(MergeMethod):\n  title = paper = ''": "making one of the class failed",
    "class wrong(MergeMethod):\n  title = paper = ''\n  def merge(self, t, s):\n    return 1":
        "has no 'yield'",
    "@tile_method()\ndef wrongs(tile, settings): return 1": r"did you mean 'wrongs'\?",
}  # fmt: skip


@pytest.mark.parametrize("code", WRONG)
def test_mistakes_are_told(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "import torch\nfrom mergesafe.methods.authoring import *\n"
    header += "from mergesafe.methods.spec import MergeMethod\n"
    (tmp_path / "wrong.py").write_text(header + code)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("wrong", None)
    registry._imported.cache_clear()
    inputs = [torch.ones(2, 3), torch.zeros(2, 3)]
    with pytest.raises(MergesafeError) as raised:
        run("wrong:wrong", inputs)
    assert re.search(WRONG[code], str(raised.value)), raised.value
    assert torch.equal(inputs[1], torch.zeros(2, 3))


def test_the_method_of_the_maintainers_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/adding-a-method.md: complete as it stands, and what its docstring says."""
    page = PAGE.with_name("adding-a-method.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "low_rank.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    generator = torch.Generator().manual_seed(3)
    base, *experts = (torch.randn(6, 4, generator=generator) for _ in range(3))
    merged = run("low_rank:LowRankMean", experts, base, share=0.5, scale=0.7)
    mean = (sum(experts) / 2 - base).double()
    u, s, vh = torch.linalg.svd(mean, full_matrices=False)
    expected = base + 0.7 * (u[:, :2] * s[:2]) @ vh[:2]
    # float32 LAPACK against float64, on values of about 3
    assert torch.allclose(merged.double(), expected, rtol=0, atol=5e-6)
    row = run("low_rank:LowRankMean", [x[0] for x in experts], base[0], share=0.5)
    assert torch.allclose(
        row, sum(x[0] for x in experts) / 2, rtol=0, atol=1e-6
    )  # rounding of float32
