"""What a plan warns of and notes, the merge reports too: terminal, JSON, card, manifest, Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family import Family
from safetensors.torch import save_file
from tiny import command, llama, recipe, save, save_adapter, write_recipe

import mergesafe
from mergesafe.engine.plan.called import as_called

MANIFEST = "mergesafe-manifest.json"
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"
DROPPED = f"{INV_FREQ} is dropped: models compute it, and not every input stores it"


@pytest.fixture
def content(family: Family) -> dict[str, Any]:
    """A merge with a dropped buffer and settings that differ."""
    for seed, model in enumerate(family.models):
        save(model, llama(seed), {"rope_theta": 1e4 * (1 + seed)})
    one = family.experts[0]
    save_file({**llama(1), INV_FREQ: torch.ones(4)}, one / "x.safetensors")
    (one / "x.safetensors").rename(one / "model.safetensors")
    return recipe("linear", family.models, each={"weight": 1})


def test_python(content: dict[str, Any], tmp_path: Path) -> None:
    made = mergesafe.plan(content).plan
    result = mergesafe.merge(content, tmp_path / "out")
    assert result.notes == made.notes == (DROPPED,)
    assert result.warnings == made.warnings
    again = mergesafe.merge(content, tmp_path / "out", resume=True)
    assert again.notes == made.notes


def test_manifest_and_card(content: dict[str, Any], family: Family) -> None:
    out = family.folder / "out"
    result = mergesafe.merge(content, out)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["notes"] == [DROPPED]
    assert manifest["warnings"] == list(result.warnings) != []
    card = (out / "README.md").read_text()
    assert f"\n## Notes\n\n- {DROPPED}\n\n" in card
    assert "\n## Warnings\n\n- " in card
    before_recipe, _ = card.split("## Recipe")
    assert str(family.folder) not in before_recipe, "a published card tells no local paths"


def test_command(content: dict[str, Any], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", content)
    done = command("merge", path, tmp_path / "a")
    assert f"mergesafe: note: {DROPPED}\n" in done.stderr
    assert command("merge", path, tmp_path / "b", "--quiet").stderr == ""
    printed = json.loads(command("merge", path, tmp_path / "c", "--json").stdout)
    assert printed["notes"] == [DROPPED]
    assert f"note       {DROPPED}" in command("plan", path).stdout


def test_manifests_without_notes_stay_readable(content: dict[str, Any], tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    out = tmp_path / "out"
    mergesafe.merge(content, out)
    manifest = json.loads((out / MANIFEST).read_text())
    del manifest["notes"], manifest["warnings"]
    (out / MANIFEST).write_text(json.dumps(manifest))
    assert mergesafe.verify(out).tensors == len(manifest["tensors"])
    assert mergesafe.merge(content, out, resume=True).bytes_written == 0


def test_nothing_to_say_leaves_no_headings(family: Family) -> None:
    mergesafe.merge(recipe("linear", family.models, each={"weight": 1}), family.folder / "out")
    card = (family.folder / "out" / "README.md").read_text()
    assert "## Notes" not in card
    assert "## Warnings" not in card


def everywhere(folder: Path) -> Path:
    """A recipe whose models lie beside it, with something to say about most of their files."""
    for seed, name in enumerate(("base", "one")):
        tensors = llama(seed)
        tensors["model.norm.weight"][seed:1] = torch.nan
        save(folder / name, tensors)
    stale = {"quantization_config": {"quant_method": "gptq"}}
    save(folder / "two", llama(2), stale)
    (folder / "base" / "left.json").write_text("{}")
    (folder / "base" / "tokenizer.json").write_text("{}")
    (folder / "one" / "tokenizer.json").write_text('{"model": 7}')
    adapter = save_adapter(folder / "adapter", llama(2), 3)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["alpha_pattern"] = {"nothing": 3}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    made = recipe("linear", ["base", "one", "./two+adapter"], each={"weight": 0.5})
    return write_recipe(folder / "recipe.yml", made)


def test_the_folder_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Card and manifest are published: equal files give equal bytes wherever they lie."""
    outs = []
    for place in ("here/a", "there/with/a", "third"):
        path = everywhere(tmp_path / place)
        if place == "third":
            monkeypatch.chdir(path.parent)
            path = Path(path.name)
        out = tmp_path / place / "out"
        result = mergesafe.merge(path, out, on_nonfinite="zero")
        told = "\n".join((*result.warnings, *result.notes))
        for about in (
            "two: config.json has a quantization_config",
            "left.json in base ",
            "adapter/adapter_config.json: alpha_pattern",
            "could not be compared",
            "base/model.safetensors: tensor 'model.norm.weight' holds 1 value that is NaN",
        ):
            assert about in told, told
        assert str(tmp_path) not in told
        outs.append(out)
    for name in ("README.md", MANIFEST):
        assert len({(out / name).read_bytes() for out in outs}) == 1
        assert str(tmp_path) not in (outs[0] / name).read_text()


def test_only_whole_paths_are_replaced(tmp_path: Path) -> None:
    for seed, name in enumerate(("m", "m.b", "mm")):
        save(tmp_path / name, llama(seed))
    path = write_recipe(tmp_path / "r.yml", recipe("linear", ["m", "m.b"], each={"weight": 1}))
    made = mergesafe.plan(path).plan
    here = tmp_path / "m"
    messages = [f"{here}.b/x, {here}m, {here}: {here}.", f"/a{here}", f"in {here}/c ({path}:7)"]
    assert as_called(messages, made.recipe, made.models) == (
        f"m.b/x, {here}m, m: m.", f"/a{here}", "in m/c (r.yml:7)",
    )  # fmt: skip
