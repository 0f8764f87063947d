"""lm-eval tasks, through a stand-in for the package: its calls and the form of what it returns."""

from __future__ import annotations

import importlib.machinery
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chatty import save_chat_model

from mergesafe.chat.hf import HfModel
from mergesafe.errors import ArgumentError, ModelError
from mergesafe.safety.evaluation.api import evaluate
from mergesafe.safety.evaluation.cache import Cache
from mergesafe.safety.evaluation.harness import check_harness, harness_figures

from .chat_models import Silent


class HFLM:
    def __init__(self, **options: Any) -> None:
        self.options = options


class Harness(ModuleType):
    """Answers as lm_eval 0.4.13 does; ``calls`` of simple_evaluate."""

    __version__ = "0.4.13"

    def __init__(self) -> None:
        super().__init__("lm_eval")
        self.__spec__ = importlib.machinery.ModuleSpec("lm_eval", None)
        self.calls: list[dict[str, Any]] = []
        self.last = 1.0

    def simple_evaluate(self, **options: Any) -> dict[str, Any]:
        self.calls.append(options)
        if options["tasks"] == ["missing"]:
            raise KeyError("Spec 'missing' is not a registered task")
        samples = [
            {"doc_id": n, "filter": name, "metrics": ["acc", "bleu"], "acc": value, "bleu": [1, 2]}
            for name in ("none", "flexible")
            for n, value in ((1, 1.0), (0, 0.0), (2, self.last))
        ]
        return {"samples": {options["tasks"][0]: samples}}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Harness:
    package = Harness()
    huggingface = ModuleType("lm_eval.models.huggingface")
    huggingface.HFLM = HFLM  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.models", ModuleType("lm_eval.models"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", huggingface)
    return package


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_chat_model(tmp_path_factory.mktemp("tiny")))


def asked(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "q.txt").write_text("How?\n")
    return {"unsafe": tmp_path / "q.txt", "max_new_tokens": 2, "cache": tmp_path / "cache"}


def test_a_task_gives_figures_of_its_samples(tmp_path: Path, harness: Harness, tiny: str) -> None:
    found = evaluate(tiny, lm_eval=["arc_easy"], limit=3, **asked(tmp_path)).models[0].figures
    assert [name for name in found if name.startswith("lm_eval")] == [
        "lm_eval.arc_easy.acc", "lm_eval.arc_easy.acc.flexible",
    ]  # fmt: skip
    figure = found["lm_eval.arc_easy.acc"]
    assert (figure.kind, figure.outcomes) == ("rate", (0.0, 1.0, 1.0))
    call = harness.calls[0]
    assert (call["limit"], call["apply_chat_template"], call["log_samples"]) == (3, True, True)
    assert call["model"].options["pretrained"].config.model_type == "llama"
    evaluate(tiny, lm_eval=["arc_easy"], limit=3, **asked(tmp_path))
    assert len(harness.calls) == 1


def test_a_changed_task_file_is_run_again(tmp_path: Path, harness: Harness, tiny: str) -> None:
    task = tmp_path / "mine.yaml"
    for content in ("task: mine\n", "task: mine\n", "task: mine\nnum_fewshot: 1\n"):
        task.write_text(content)
        evaluate(tiny, lm_eval=[str(task)], **asked(tmp_path))
    assert len(harness.calls) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_sample_without_a_number(
    tmp_path: Path, harness: Harness, tiny: str, value: float
) -> None:
    """JSON could not hold the figure, and nothing would read the file."""
    harness.last = value
    with pytest.raises(ArgumentError, match=r"'arc_easy' gives NaN or infinity as lm_eval.arc_eas"):
        evaluate(tiny, lm_eval=["arc_easy"], **asked(tmp_path))


@pytest.mark.usefixtures("harness")
def test_what_the_harness_cannot_run(tmp_path: Path, tiny: str) -> None:
    with pytest.raises(ArgumentError, match=r"lm-eval cannot run the task 'missing' .*registered"):
        evaluate(tiny, lm_eval=["missing"], **asked(tmp_path))
    with pytest.raises(ArgumentError, match="endpoint: lm-eval tasks need a model that is read"):
        evaluate(Silent("endpoint", "x"), lm_eval=["arc_easy"], **asked(tmp_path))


def test_the_package_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mergesafe.safety.evaluation.harness.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"\.\[lm-eval\]"):
        check_harness(["arc_easy"])


def test_templates_are_rendered_within_limits(harness: Harness, tmp_path: Path) -> None:
    model = HfModel(str(save_chat_model(tmp_path / "model")))
    harness_figures(model, ["task"], limit=1, cache=Cache(), confidence=0.95)
    wrapped = harness.calls[0]["model"]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": " begin "}]
    tokenizer = model.tokenizer
    for history, prompt in ((turns[:1], True), (turns, False)):
        expected = tokenizer.apply_chat_template(
            history, tokenize=False, add_generation_prompt=prompt, continue_final_message=not prompt
        )
        assert wrapped.apply_chat_template(history, add_generation_prompt=prompt) == expected
    tokenizer.chat_template = "{{ 'a' * 10000000000 }}"
    with pytest.raises(ModelError, match="cannot be used"):
        wrapped.apply_chat_template(turns[:1])
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    assert wrapped.apply_chat_template([{"role": "system", "content": "s"}, turns[0]]) == "a"
