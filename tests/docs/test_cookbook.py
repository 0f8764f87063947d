"""Every recipe of the cookbook, as it stands on the page, plans and merges."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from tokenizer.trained import ENGLISH, train, write_trained

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cookbook.md").read_text()
RECIPES = dict(re.findall(r'```yaml title="([\w-]+)\.yml"\n(.*?)```', PAGE, re.DOTALL))
PLAIN = (
    "maths", "code", "instruct", "instruct-maths", "maths-run1", "maths-run2", "maths-run3",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the recipes name: 16 layers, and a chat model that has two tokens more."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONFIG, "num_hidden_layers", 16)
        few = len(write_trained(folder / "base", train("byte", ENGLISH, 270)))
        base = tiny.llama(0, vocab=few)
        tiny.save(folder / "base", base, {"vocab_size": few})
        for seed, name in enumerate(PLAIN, 1):
            shutil.copytree(folder / "base", folder / name)
            other = tiny.llama(seed, vocab=few)
            moved = {n: (base[n] + 0.2 * (t - base[n])).to(t.dtype) for n, t in other.items()}
            tiny.save(folder / name, moved, {"vocab_size": few})
        marks = ("<|im_start|>", "<|im_end|>")
        write_trained(folder / "chat", train("byte", ENGLISH, 270), marks, eos_token=marks[1])
        config = {"vocab_size": few + 2, "eos_token_id": few + 1}
        tiny.save(folder / "chat", tiny.llama(9, vocab=few + 2), config)
        for seed, name in enumerate(("maths", "code")):
            tiny.save_adapter(folder / "adapters" / name, base, seed)
        yield folder


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe(name: str, models: Path) -> None:
    (models / f"{name}.yml").write_text(RECIPES[name])
    done = tiny.command("merge", f"{name}.yml", f"out-{name}", cwd=models)
    assert done.returncode == 0, done.stderr
    if name != "more-tokens":  # it takes one of two end tokens, which is worth a warning
        assert "warning" not in done.stderr
    merged = tiny.read(models / f"out-{name}")
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in merged.values())


def test_there_are_twelve_and_the_files_are_the_same() -> None:
    files = {path.stem: path.read_text() for path in (ROOT / "examples/recipes").glob("*.yml")}
    assert files == RECIPES
    assert len(RECIPES) == 12
