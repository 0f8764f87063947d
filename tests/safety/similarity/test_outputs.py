"""CKA, KL and top-1 agreement against direct computations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chatty import save_chat_model

import mergesafe as ms
from mergesafe.chat.conversation import question
from mergesafe.errors import DataError, ModelError
from mergesafe.safety.similarity.cka import centred_gram, linear_cka
from mergesafe.safety.similarity.outputs import chosen_positions

PROMPTS = ("What is red?", "Name a day of the week, please.", "Add 2 and 3.")


def feature_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Kornblith et al. 2019, by features: ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), columns centred."""
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def cka(x: torch.Tensor, y: torch.Tensor) -> float:
    return linear_cka(centred_gram(x), centred_gram(y))


def test_cka_is_that_of_the_features() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(9, width, generator=generator) for width in (5, 7))
    # the Gram matrices are kept in float32
    assert cka(x, y) == pytest.approx(feature_cka(x, y), rel=1e-6)
    assert cka(x, x) == pytest.approx(1, rel=1e-6)


def test_cka_by_hand() -> None:
    """Centred, x = (-1, 0, 1), y = (1, -2, 1), z = (-1, 1, 0): xᵀy = 0, xᵀz = 1 of √2 · √2."""
    values = ([1.0, 2.0, 3.0], [5.0, 2.0, 5.0], [0.0, 2.0, 1.0])
    x, y, z = (torch.tensor(each)[:, None] for each in values)
    assert cka(x, y) == 0
    assert cka(x, z) == pytest.approx(0.25, rel=1e-6)


def test_cka_ignores_rotation_scale_and_shift() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(20, 6, generator=generator)
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    assert cka(x, 3 * x @ turned + 5) == pytest.approx(1, rel=1e-6)
    assert cka(x, torch.zeros(20, 3)) == 0  # a layer that says nothing


def test_positions_leave_out_what_all_prompts_begin_with() -> None:
    ids = [[7, 7, 1, 2], [7, 7, 3], [7, 7, 4, 5, 6]]
    assert chosen_positions(ids) == [(0, 2), (0, 3), (1, 2), (2, 2), (2, 3), (2, 4)]
    assert chosen_positions(ids, 3) == [(0, 2), (1, 2), (2, 3)]
    assert chosen_positions([[7, 8]]) == [(0, 0), (0, 1)]
    assert chosen_positions([[7, 8], [7, 8]]) == [(0, 1), (1, 1)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two models of other weights."""
    folder = tmp_path_factory.mktemp("models")
    return [save_chat_model(folder / str(seed), seed=seed) for seed in range(3)]


def observed(folder: Path) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Hidden states and log-probabilities at every position that is compared, one by one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [
        tokenizer.apply_chat_template(question(p), tokenize=False, add_generation_prompt=True)
        for p in PROMPTS
    ]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    states, logs = [], []
    for row, tokens in enumerate(ids):
        at = [place for prompt, place in chosen_positions(ids) if prompt == row]
        with torch.inference_mode():
            answer = model(torch.tensor([tokens]), output_hidden_states=True)
        states.append([layer[0, at] for layer in answer.hidden_states])
        logs.append(answer.logits[0, at].double().log_softmax(-1))
    return [torch.cat(layer) for layer in zip(*states, strict=True)], torch.cat(logs)


def test_outputs_are_those_of_running_each_prompt_alone(models: list[Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    found = ms.similarity(models[1:], models[0], prompts=prompts)
    (x, p), (y, q) = observed(models[1]), observed(models[2])
    document = found.as_dict()
    assert document["prompts"] == 3
    [pair] = document["pairs"]
    assert document["layers"] == ["embed_tokens", "0", "1", "norm", "lm_head"]
    expected = [feature_cka(a, b) for a, b in zip(x, y, strict=True)]
    # float32 models; batches are padded
    assert pair["cka"][:3] == pytest.approx(expected, abs=1e-4)
    assert pair["cka"][3:] == [None, None]
    assert pair["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(1).mean()), rel=1e-4)
    assert pair["top1"] == float((p.argmax(1) == q.argmax(1)).double().mean())


def test_a_model_is_like_itself(models: list[Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"question": "What is red?"}\n{"question": "Add 2 and 3."}\n')
    found = ms.similarity({"a": models[1], "b": models[1]}, models[0], prompts=prompts)
    outputs = found.pairs[0].outputs
    assert outputs is not None
    assert (outputs.kl, outputs.top1) == (0, 1)
    assert list(outputs.cka.values()) == pytest.approx([1, 1, 1])


def test_the_mean_merge_against_that_without_each(models: list[Path], tmp_path: Path) -> None:
    """The merges are those that the command writes; here of an expert in a folder called a+b."""
    plus = tmp_path / "a+b"
    shutil.copytree(models[2], plus)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    experts = {"one": models[1], "two": plus}
    found = ms.similarity(experts, models[0], prompts=prompts, leave_one_out=True)
    logs = []
    for number, kept in enumerate((["one", "two"], ["two"], ["one"])):
        sources = [
            {"model": {"model": {"path": str(experts[name])}}, "parameters": {"weight": 0.5}}
            for name in kept
        ]
        recipe = {
            "merge_method": "task_arithmetic", "base_model": str(models[0]), "models": sources,
            "dtype": "float32",
        }  # fmt: skip
        ms.merge(recipe, tmp_path / f"merged{number}")
        logs.append(observed(tmp_path / f"merged{number}")[1])
    whole, *left = logs
    for each, other in zip(found.as_dict()["contributions"], left, strict=True):
        expected = float((whole.exp() * (whole - other)).sum(1).mean())
        assert each["kl"] == pytest.approx(expected, rel=1e-4)
        assert each["top1"] == float((whole.argmax(1) == other.argmax(1)).double().mean())


def test_bad_prompts(models: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(DataError, match="no question"):
        ms.similarity(models[1:], models[0], prompts=empty)


def test_the_first_model_with_a_template_gives_it(models: list[Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is red?\nAdd 2 and 3.")
    plain = [save_chat_model(tmp_path / str(seed), seed, template=None) for seed in (1, 2)]
    found = ms.similarity([plain[0], models[2]], plain[1], prompts=prompts)
    assert found.prompts == 2
    with pytest.raises(ModelError, match="no chat template"):
        ms.similarity({"a": plain[0], "b": plain[0]}, plain[1], prompts=prompts)
