"""No command runs what lies in a model's folder, whatever standard input answers."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatty import save_chat_model

import mergesafe
from mergesafe.chat.hf import HfModel
from mergesafe.chat.pretrained import load_model, load_tokenizer, model_without_weights
from mergesafe.errors import MergesafeError, ModelError
from mergesafe.safety.encoder import SentenceEncoder
from mergesafe.safety.inspector.train import _start

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose folder holds a module that leaves a mark when it is imported."""
    made = save_chat_model(tmp_path / "model")
    mark = f"import pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\n"
    for name in ("custom.py", "configuration_custom.py", "tokenization_custom.py"):
        (made / name).write_text(
            f"{mark}from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizer\n"
            "class C(LlamaConfig): model_type = 'custom'\n"
            "class M(LlamaForCausalLM): config_class = C\n"
            "class T(PreTrainedTokenizer): pass\n"
        )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    return made


def edit(file: Path, change: Change) -> None:
    settings = json.loads(file.read_text()) if file.exists() else {}
    change(settings)
    file.write_text(json.dumps(settings))


AUTO_MAP = {
    "AutoConfig": "custom.C", "AutoModelForCausalLM": "custom.M", "AutoModel": "custom.M",
    "AutoModelForSequenceClassification": "custom.M", "AutoTokenizer": ["custom.T", None],
}  # fmt: skip
#: file, what is written into it, words of the error
TRAPS: dict[str, tuple[str, dict[str, Any], str]] = {
    "own architecture": ("config.json", {"model_type": "own", "auto_map": AUTO_MAP}, "auto_map"),
    "no architecture": ("config.json", {"model_type": None, "auto_map": AUTO_MAP}, "auto_map"),
    "own tokenizer": (
        "tokenizer_config.json", {"tokenizer_class": "T", "auto_map": AUTO_MAP}, "auto_map",
    ),
    "no tokenizer's class": (
        "tokenizer_config.json", {"tokenizer_class": "AutoModel"}, "no tokenizer",
    ),
    "tokenizer elsewhere": (
        "tokenizer_config.json", {"fast_tokenizer_files": ["/elsewhere/tokenizer.4.0.json"]},
        "fast_tokenizer_files",
    ),
    "pipelines": (
        "config.json", {"custom_pipelines": {"text": {"impl": "custom.M"}}}, "custom_pipelines",
    ),
    "generation": ("generation_config.json", {"custom_generate": "org/name"}, "custom_generate"),
    "generation in the configuration": (
        "config.json", {"custom_generate": "org/name"}, "custom_generate",
    ),
    "kernel": ("config.json", {"_attn_implementation": "org/kernel"}, "kernel"),
    "kernel of a part": (
        "config.json", {"text_config": {"attn_implementation": {"": "a|org/kernel@1:f"}}}, "kernel",
    ),
    "other weights": (
        "config.json", {"transformers_weights": "other.safetensors"}, "transformers_weights",
    ),
    "no number": ("config.json", {"dtype": "load"}, "dtype"),
    "adapter": (
        "adapter_config.json", {"base_model_name_or_path": "org/other", "peft_type": "LORA"},
        "adapter",
    ),
    "adapter with code": (
        "adapter_config.json",
        {"auto_mapping": {"base_model_class": "M", "parent_library": "custom"}}, "adapter",
    ),
}  # fmt: skip


def ways(folder: Path) -> list[Callable[[], object]]:
    """All that loads a folder."""
    return [
        HfModel(str(folder)).check,
        lambda: HfModel(str(folder)).model,
        lambda: load_tokenizer(folder),
        lambda: load_model(folder, "AutoModelForCausalLM", dtype="auto"),
        lambda: SentenceEncoder(folder).check(),
        lambda: SentenceEncoder(folder).model,
        lambda: _start(str(folder), [], 64),
    ]


@pytest.mark.parametrize("trap", TRAPS)
def test_what_asks_for_code_is_refused_by_name(folder: Path, tmp_path: Path, trap: str) -> None:
    name, content, words = TRAPS[trap]
    edit(folder / name, lambda settings: settings.update(content))
    those_with_a_tokenizer = (0, 2, 4)
    for number, way in enumerate(ways(folder)):
        if name == "tokenizer_config.json" and number not in those_with_a_tokenizer:
            continue
        with pytest.raises(ModelError) as caught:
            way()
        assert words in str(caught.value)
        assert str(folder) in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name", ["custom_generate", "shard-00001-model-00001-of-00001.safetensors"]
)
def test_what_would_replace_the_model_is_refused(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "generate.py").write_bytes((folder / "custom.py").read_bytes())
    for way in ways(folder):
        with pytest.raises(ModelError, match=name):
            way()


@pytest.mark.parametrize("deep", [False, True])
def test_code_beside_an_architecture_of_transformers_is_not_run(
    folder: Path, tmp_path: Path, deep: bool
) -> None:
    """Many models carry the code that transformers had not yet when they were published."""
    own = {"parts": [{"auto_map": AUTO_MAP}]} if deep else {"auto_map": AUTO_MAP}
    edit(folder / "config.json", lambda settings: settings.update(own))
    if not deep:
        edit(folder / "tokenizer_config.json", lambda settings: settings.update(
            tokenizer_class="LlamaTokenizerFast", auto_map=AUTO_MAP
        ))  # fmt: skip
    edit(folder / "config.json", lambda settings: settings.update(_name_or_path="org/other"))
    model = HfModel(str(folder))
    model.check()
    assert type(model.model).__module__ == "transformers.models.llama.modeling_llama"
    assert "auto_map" not in str(model.model.config)
    assert not (tmp_path / "mark").exists()


def test_a_model_without_weights_asks_for_no_code_either(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    built = model_without_weights(settings | {"auto_map": AUTO_MAP}, "float32", "here")
    assert type(built).__module__ == "transformers.models.llama.modeling_llama"
    with pytest.raises(ModelError, match="auto_map"):
        model_without_weights(settings | {"auto_map": AUTO_MAP, "model_type": "own"}, None, "here")
    assert not (tmp_path / "mark").exists()


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    for way in (ways(folder)[0], ways(folder)[1], ways(folder)[3], ways(folder)[4]):
        with pytest.raises(MergesafeError, match="pickled weights only"):
            way()


def test_a_yes_from_a_pipe_runs_nothing(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", lambda settings: settings.update(TRAPS["own architecture"][1]))
    questions = tmp_path / "q.txt"
    questions.write_text("How?\n")
    done = subprocess.run(
        [sys.executable, "-m", "mergesafe.cli", "evaluate", folder, "--unsafe", questions],
        input="y\ny\ny\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "auto_map" in done.stderr
    assert not (tmp_path / "mark").exists()


def test_one_module_calls_the_loaders_of_transformers() -> None:
    """And the other that loads something of the Hub runs no scripts of data sets."""
    package = Path(mergesafe.__file__).parent
    loaders = re.compile(
        r"\.from_pretrained\(|\.from_config\(|AutoConfig|AutoTokenizer|AutoModel\w*\b.*import"
        r"|import.*AutoModel|load_dataset\(|pipeline\(|torch\.load\(|trust_remote_code=True"
    )
    found = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if loaders.search(line) and not re.search(r"``|: m = |^ *\"", line)  # advice
    }
    assert found == {"chat/pretrained.py", "data/sources.py"}
