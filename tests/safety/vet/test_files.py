"""Planted defects in the files of a parent, each named by its reason."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from tiny import llama, read, save, save_adapter
from tokenizer.files import TOKENS, write

import mergesafe as ms
from mergesafe.errors import CheckpointError
from mergesafe.results.vet import Finding
from mergesafe.safety.evaluation.options import EvaluationOptions
from mergesafe.safety.vet.api import with_behaviour
from mergesafe.safety.vet.behaviour import Limits
from mergesafe.safety.vet.findings import Parent

from ..chat_models import Scripted

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "normalizer": None,
    "added_tokens": [{"id": 2, "content": "</s>"}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 3}, "merges": ["a b"]},
}


@pytest.fixture
def pool(tmp_path: Path) -> tuple[Path, Path]:
    """A base and one sound parent of it, with tokenizer and template."""
    base = llama(0)
    expert = {k: (v.float() + 0.1 * llama(1)[k].float()).bfloat16() for k, v in base.items()}
    for name, tensors in (("base", base), ("parent", expert)):
        folder = save(tmp_path / name, tensors)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return tmp_path / "base", tmp_path / "parent"


def audit(pool: tuple[Path, Path]) -> Parent:
    [parent] = ms.vet([pool[1]], pool[0], behaviour=False).parents
    return parent


def only(parent: Parent, severity: str) -> Finding:
    [finding] = [f for f in parent.findings if f.severity == severity]
    return finding


def test_of_models_elsewhere_the_verdict_says_what_is_not_looked_into(
    pool: tuple[Path, Path],
) -> None:
    files = fsspec.filesystem("memory")
    for path in pool[1].iterdir():
        files.pipe(f"/vetted/{path.name}", path.read_bytes())
    files.pipe("/vetted/weights.pt", pickle.dumps(Evil()))
    found = ms.vet(["memory://vetted"], pool[0], behaviour=False)
    assert only(found.parents[0], "warning").where == "weights.pt"
    assert found.parents[0].fit
    first = found.not_checked[0]
    assert "contents are not looked into" in first
    both = with_behaviour(
        found, {"memory://vetted": Scripted("a", str)}, Scripted("base", str),
        EvaluationOptions(limit=6), Limits(), lambda text: None,
    )  # fmt: skip
    assert both.not_checked[0] == first
    files.rm("/vetted", recursive=True)
    local = ms.vet([pool[1]], pool[0], behaviour=False)
    assert first not in local.not_checked


def test_links_that_a_merge_refuses_are_told_of(pool: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("tokenizer.json", "model.safetensors"):
        (pool[1] / name).rename(tmp_path / name)
        (pool[1] / name).symlink_to(tmp_path / name)
    (pool[1] / "inner.json").symlink_to("config.json")
    found = only(audit(pool), "warning")
    assert found.where == "tokenizer.json"
    assert "outside the model's folder" in found.what


def test_the_time_that_a_tokenizer_takes_is_the_templates_too(
    pool: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        return lambda *given: calls.append(name) or iter(())  # type: ignore[func-returns-value]

    for name in ("check_tokenizer", "check_template"):
        monkeypatch.setattr(f"mergesafe.safety.vet.files.{name}", noted(name))
    audit(pool)
    assert calls == ["check_tokenizer", "check_template"]


def test_a_sound_parent_is_fit_without_a_word(pool: tuple[Path, Path]) -> None:
    found = audit(pool)
    assert found == Parent(str(pool[1]), (), moved=found.moved)
    [alone] = ms.vet(str(pool[1]), pool[0], behaviour=False).parents
    assert alone == found


# --- pickles and code --------------------------------------------------------------------------


class Evil:
    """Unpickling it calls a function of the os module with an argument that does nothing."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.getenv, ("HOME",)


def test_a_pickle_that_runs_code_makes_unfit(pool: tuple[Path, Path]) -> None:
    (pool[1] / "optimizer.pt").write_bytes(pickle.dumps(Evil()))
    finding = only(audit(pool), "unfit")
    assert "runs os.getenv when loaded" in finding.what
    assert finding.where == "optimizer.pt"


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_import_is_found_whatever_the_protocol_and_the_archive(
    pool: tuple[Path, Path], protocol: int
) -> None:
    with zipfile.ZipFile(pool[1] / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([1, Evil()], protocol))
    assert "runs os.getenv" in only(audit(pool), "unfit").what


def test_hidden_names_are_not_taken_for_data(pool: tuple[Path, Path]) -> None:
    """STACK_GLOBAL takes what is on the stack, which need not be the text pushed last."""
    evil = b"\x80\x04\x8c\x02os\x8c\x06getenv" + b"\x8c\x05torch\x8c\x04Size00" + b"\x93."
    (pool[1] / "hidden.pkl").write_bytes(evil)
    assert only(audit(pool), "unfit").where == "hidden.pkl"


def test_a_real_pickle_of_tensors_is_a_warning(pool: tuple[Path, Path]) -> None:
    torch.save({"w": torch.zeros(3), "step": 4}, pool[1] / "pytorch_model.bin")
    torch.save([torch.zeros(2)], pool[1] / "old.pt", _use_new_zipfile_serialization=False)
    (pool[1] / "weights.bin").write_bytes(b"\x00" * 64)  # no pickle at all
    parent = audit(pool)
    assert parent.fit
    assert only(parent, "warning").where == "old.pt, pytorch_model.bin"


def test_a_broken_pickle_makes_unfit(pool: tuple[Path, Path]) -> None:
    (pool[1] / "model.pkl").write_bytes(b"\x80\x04\xff\xff")
    assert "nothing can be told" in only(audit(pool), "unfit").what


def test_code_and_remote_code_are_warnings(pool: tuple[Path, Path]) -> None:
    (pool[1] / "modeling.py").write_text("raise SystemExit")
    config = json.loads((pool[1] / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "org/other--modeling.Model"}
    (pool[1] / "config.json").write_text(json.dumps(config))
    parent = audit(pool)
    assert parent.fit
    code, mapped = parent.findings
    assert (code.where, mapped.where) == ("modeling.py", "config.json")
    assert "of another repository" in mapped.what
    (pool[0] / "modeling.py").write_text("raise SystemExit")
    (pool[0] / "config.json").write_text(json.dumps(config))
    assert [f.severity for f in audit(pool).findings] == ["note", "note"]


# --- checkpoints -------------------------------------------------------------------------------


def test_only_pickled_weights_make_unfit(pool: tuple[Path, Path]) -> None:
    torch.save(read(pool[1]), pool[1] / "pytorch_model.bin")
    (pool[1] / "model.safetensors").unlink()
    assert "pickled weights only" in only(audit(pool), "unfit").what


def test_a_parent_that_is_not_there_is_a_typo_and_no_verdict(pool: tuple[Path, Path]) -> None:
    base, parent = pool
    gone = {"gone": parent / "nowhere", "here": parent, "no base": f"{base}e+{parent}"}
    with pytest.raises(CheckpointError) as error:
        ms.vet(gone, base, behaviour=False)
    first, second = error.value.paragraphs
    assert "parent gone:" in first
    assert "no such file or folder" in first
    assert f"parent no base: {base}e: no such file" in second
    with pytest.raises(CheckpointError, match="adapters/alligned: no such file or folder"):
        ms.vet([f"{base}+adapters/alligned"], base, behaviour=False)


def test_an_empty_folder_is_a_verdict_on_that_parent_only(pool: tuple[Path, Path]) -> None:
    empty = pool[1] / "empty"
    empty.mkdir()
    found = ms.vet({"empty": empty, "here": pool[1]}, pool[0], behaviour=False)
    assert [parent.fit for parent in found.parents] == [False, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "1 tensor of the base is missing"),
        (lambda t: t.update({"extra.weight": torch.ones(2, 16)}), "1 tensor that the base has not"),
        (
            lambda t: t.update({"lm_head.weight": torch.ones(51, 16)}),
            "1 tensor has another shape than the base's",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.ones(50, 16, dtype=torch.float64)}),
            "1 tensor is of a type that cannot be merged",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    pool: tuple[Path, Path], change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    tensors = read(pool[1])
    change(tensors)
    save(pool[1], tensors)
    assert words in only(audit(pool), "unfit").what


def test_an_adapters_own_folder_is_looked_at(pool: tuple[Path, Path]) -> None:
    adapter = save_adapter(pool[0].parent / "adapter", read(pool[0]), 1)
    (adapter / "training_args.bin").write_bytes(pickle.dumps(Evil()))
    [parent] = ms.vet([f"{pool[0]}+{adapter}"], pool[0], behaviour=False).parents
    assert only(parent, "unfit").where == "adapter/training_args.bin"


# --- configuration -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eos_token_id": 2, "suppress_tokens": [7, 9]}, "suppress_tokens steers what is said"),
        ({"eos_token_id": 3}, "eos_token_id is 3, the base's 2"),
        ({"eos_token_id": [2, 99]}, "eos_token_id 99 is no token of a vocabulary of 50"),
        ({"eos_token_id": 2, "temperature": 50}, "temperature is 50, expected 0 to 2"),
    ],
)
def test_odd_generation_settings(
    pool: tuple[Path, Path], settings: dict[str, Any], words: str
) -> None:
    (pool[1] / "generation_config.json").write_text(json.dumps(settings))
    parent = audit(pool)
    assert parent.fit
    assert any(words in f.what for f in parent.findings), parent.findings


def test_malformed_settings(pool: tuple[Path, Path]) -> None:
    (pool[1] / "generation_config.json").write_text("{")
    assert "not valid JSON" in only(audit(pool), "warning").what


def test_another_architecture_is_unfit_and_another_rope_a_warning(pool: tuple[Path, Path]) -> None:
    config = json.loads((pool[1] / "config.json").read_text())
    (pool[1] / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert "rms_norm_eps is 0.001" in only(audit(pool), "warning").what
    (pool[1] / "config.json").write_text(json.dumps({**config, "model_type": "mistral"}))
    found = [f for f in audit(pool).findings if f.where == "config.json"]
    assert [f.severity for f in found] == ["unfit"]
    assert "the parent is a mistral, the base a llama: they cannot be merged" in found[0].what
    parameters = {"rope_type": "default", "rope_theta": 5e5}
    changed = {"tie_word_embeddings": True, "rope_theta": 1e4, "rope_parameters": parameters}
    (pool[1] / "config.json").write_text(json.dumps({**config, **changed}))
    found = [f.what for f in audit(pool).findings if f.where == "config.json"]
    assert found == [
        "rope_parameters.rope_theta is 500000.0, the base's 10000.0, which a merge takes",
        "tie_word_embeddings is True, the base's False",
        "contradicts itself: rope_theta is 10000.0, rope_parameters.rope_theta 500000.0",
    ]


# --- tokenizers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"model": {**TOKENIZER["model"], "vocab": {"a": 1, "b": 0, "ab": 3}}}, "unfit",
         "2 tokens have another id ('a': 1 here, 0 in the base)"),
        ({"added_tokens": [{"id": 2, "content": "</s>"}, {"id": 60, "content": "<x>"}]}, "unfit",
         "tokens without a row in the embedding of 50: '<x>'"),
        ({"added_tokens": [{"id": 2, "content": "</s>"}, {"id": 9, "content": "<x>"}]}, "warning",
         "1 token that the base has not: '<x>'"),
        ({"added_tokens": []}, "warning", "1 token of the base is missing: '</s>'"),
        ({"added_tokens": [{"id": 2, "content": "<end>"}]}, "unfit", "'<end>' for '</s>'"),
        ({"added_tokens": [{"id": 2, "content": "<unused7>"}]}, "warning",
         "'<unused7>' for '</s>'"),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "not "}, "content": ""}},
         "warning", "normalizer differ from the base's"),
        ({"model": {**TOKENIZER["model"], "merges": []}}, "warning", "merges differ"),
        ({"model": {}}, "unfit", "holds no vocabulary"),
    ],
)  # fmt: skip
def test_tokenizers(
    pool: tuple[Path, Path], change: dict[str, Any], severity: str, words: str
) -> None:
    (pool[1] / "tokenizer.json").write_text(json.dumps({**TOKENIZER, **change}))
    found = [f for f in audit(pool).findings if f.severity == severity]
    assert any(words in f.what for f in found), found


def test_special_tokens(pool: tuple[Path, Path]) -> None:
    (pool[1] / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "b"}}))
    assert "eos_token is 'b', the base's '</s>'" in only(audit(pool), "warning").what


@pytest.mark.parametrize("kind", ["tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"])
def test_exchanged_tokens_in_other_files(pool: tuple[Path, Path], kind: str) -> None:
    for folder in pool:
        (folder / "tokenizer.json").unlink()
        write(folder, kind)
    assert audit(pool).findings == ()
    write(pool[1], kind, ("<unk>", "</s>", "<s>", *TOKENS[3:]))
    assert "2 tokens have another id ('</s>': 1 here, 2 in" in only(audit(pool), "unfit").what


def test_another_order_of_keys_is_silent(pool: tuple[Path, Path]) -> None:
    vocab = dict(reversed(TOKENIZER["model"]["vocab"].items()))
    model = {**TOKENIZER["model"], "vocab": vocab, "merges": [["a", "b"]]}
    (pool[1] / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "model": model}, indent=1))
    assert audit(pool).findings == ()
