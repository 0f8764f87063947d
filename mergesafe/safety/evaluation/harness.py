"""Tasks of EleutherAI's lm-evaluation-harness, on the same models.

Each task gives figures ``lm_eval.<task>.<metric>`` from its samples, so that they have the same
intervals and paired tests as everything else. Metrics that the harness makes of a whole task
(perplexity, F1 over a corpus) have no value a sample and are left out.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from mergesafe.chat.conversation import Conversation
from mergesafe.chat.hf import HfModel
from mergesafe.chat.rendering import rendered
from mergesafe.errors import ArgumentError, DataError, MergesafeError, ModelError
from mergesafe.extras import install
from mergesafe.results.metrics import LM_EVAL, Kind
from mergesafe.results.numbers import LARGEST
from mergesafe.safety.evaluation.cache import Cache, key
from mergesafe.safety.evaluation.result import Figure
from mergesafe.strict_json import decode_utf8

#: Marks where an answer is to be continued, as in transformers; the space tells of trimming.
_CONTINUED: Final = "CONTINUE_FINAL_MESSAGE_TAG "


def check_harness(tasks: Sequence[str]) -> None:
    """Refuse tasks without the package that they need, and task files that cannot be read.

    Raises:
        ModelError: lm-eval is not installed.
        DataError: a task's file cannot be read or is not UTF-8.
    """
    if tasks and find_spec("lm_eval") is None:
        raise ModelError(f"lm-eval tasks need the package lm-eval: {install('lm-eval')}")
    for task in tasks:
        _content(task)


def harness_figures(
    model: HfModel,
    tasks: Sequence[str],
    *,
    limit: int | None,
    cache: Cache,
    confidence: float,
) -> dict[str, Figure]:
    """The figures of ``tasks``: names of the harness, or paths of its task files (``.yaml``).

    The model is asked in its chat template. ``limit``: samples of each task.

    Raises:
        ArgumentError: the harness cannot run a task, with its own message; or a sample's value is
            NaN or infinite.
    """
    import lm_eval

    figures = {}
    for task in tasks:
        name = key(LM_EVAL, model.identity, task, _content(task), limit, str(lm_eval.__version__))
        known = cache.get([name], dict[str, list[float]])
        if name not in known:
            known = {name: _run(model, task, limit)}
            cache.put(known)
        for metric, values in known[name].items():
            if not all(abs(value) <= LARGEST for value in values):
                raise ArgumentError(
                    f"lm-eval's task {task!r} gives NaN or infinity as {metric} of a sample of "
                    f"{model.name}, so the metric has no mean. Leave the task out, or see with "
                    "'mergesafe vet' whether the model's weights are broken."
                )
            kind: Kind = "rate" if all(0 <= value <= 1 for value in values) else "mean"
            figures[metric] = Figure.of(kind, values, confidence)
    return figures


def _content(task: str) -> str:
    """The text of a task's file; empty for a name of the harness."""
    if not (task.endswith((".yaml", ".yml")) and os.path.isfile(task)):
        return ""
    try:
        return decode_utf8(Path(task).read_bytes())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=task) from None
    except ValueError as error:
        raise DataError(f"is {error}; expected the YAML file of a task", source=task) from None


def _run(model: HfModel, task: str, limit: int | None) -> dict[str, list[float]]:
    """Values of each metric, one a sample."""
    from lm_eval import simple_evaluate

    # It warns that a model which is loaded already ignores options for loading it.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    try:
        found = simple_evaluate(
            model=_wrapped(model), tasks=[task], limit=limit, log_samples=True, bootstrap_iters=0,
            apply_chat_template=True,
        )  # fmt: skip
    except MergesafeError:
        raise
    except Exception as error:  # whatever a task's own code raises
        why = " ".join(str(error).split())[:400]
        raise ArgumentError(
            f"lm-eval cannot run the task {task!r} ({type(error).__name__}: {why}); expected a "
            "name that 'lm-eval ls tasks' lists, or a task's YAML file. Most tasks fetch their "
            "data from the Hub."
        ) from None
    return _values(found or {})


def _wrapped(model: HfModel) -> Any:
    """The model as the harness takes it, but that its chat template is rendered within limits."""
    from lm_eval.models.huggingface import HFLM

    class Limited(HFLM):  # type: ignore[misc]
        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            try:
                return _rendered(model, chat_history, prompt=add_generation_prompt)
            except ModelError:
                # The harness, too, leaves out what a template may not take.
                plain = [turn for turn in chat_history if turn["role"] != "system"]
                if len(plain) == len(chat_history):
                    raise
                return _rendered(model, plain, prompt=add_generation_prompt)

    return Limited(pretrained=model.model, tokenizer=model.tokenizer, batch_size=model.batch)


def _rendered(model: HfModel, turns: Sequence[Mapping[str, str]], *, prompt: bool) -> str:
    """The turns in the model's chat template; without ``prompt`` the last one is to be continued,
    as transformers does it (``continue_final_message``).
    """
    if prompt:
        return rendered(model.tokenizer, cast(Conversation, turns), prompt=True)
    last = {**turns[-1], "content": turns[-1]["content"] + _CONTINUED}
    text = rendered(model.tokenizer, cast(Conversation, [*turns[:-1], last]))
    end = text.rfind(_CONTINUED.strip())
    if end < 0:
        raise ModelError(f"{model.name}: the chat template leaves out the begin of an answer.")
    # Where the template trims what is said, the begin of the answer is trimmed too.
    return text[:end] if text[end:].startswith(_CONTINUED) else text[:end].rstrip()


def _values(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """By metric, and by filter of the answers where a task has several."""
    values: dict[str, list[float]] = defaultdict(list)
    for task, samples in found.get("samples", {}).items():
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            suffix = "" if sample["filter"] == "none" else f".{sample['filter']}"
            for metric in sample["metrics"]:
                if isinstance(sample[metric], int | float):
                    values[f"{LM_EVAL}.{task}.{metric}{suffix}"].append(float(sample[metric]))
    return values
