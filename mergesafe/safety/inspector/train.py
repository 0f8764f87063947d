"""Training, calibrating and testing an inspector.

``mergesafe.train_inspector`` and ``mergesafe.measure_inspector`` are the functions here.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.pretrained import CLASSIFIER, load_model, load_tokenizer, running
from mergesafe.chat.runnable import require
from mergesafe.errors import ArgumentError, DataError
from mergesafe.log_lines import of_epochs
from mergesafe.safety.encoder import present
from mergesafe.safety.inspector.control import figures, gain, not_learned, refuse
from mergesafe.safety.inspector.examples import (
    Example,
    Split,
    read_examples,
    read_labelled,
    split,
)
from mergesafe.safety.inspector.metrics import (
    calibration_error,
    cross_entropy,
    fit_temperature,
    sigmoid,
    threshold_for,
)
from mergesafe.safety.inspector.model import SETTINGS, Inspector, Settings, encode_pairs, logits
from mergesafe.safety.trained_folder import check_trained_target, save_trained
from mergesafe.version import __version__

SCRATCH: Final = "scratch"
#: Told of each epoch: its number, the mean training loss, the cross-entropy on calibration.
Progress = Callable[[int, float, float], None]


@dataclass(frozen=True)
class Training:
    """AdamW with warm-up over a tenth of the steps, then linear to zero; the best epoch is kept.

    ``false_alarms``: of good responses, the share that may score below the threshold of squads,
    which is lowered from one half where more do; None leaves it at one half.
    """

    epochs: int = 4
    batch: int = 16
    rate: float = 5e-5
    max_tokens: int = 256
    seed: int = 0
    false_alarms: float | None = None

    def __post_init__(self) -> None:
        if self.false_alarms is not None and not 0 < self.false_alarms < 1:
            raise ArgumentError(
                f"the share of false alarms must be between 0 and 1, got {self.false_alarms:g}"
            )
        if self.epochs < 1 or self.batch < 1 or not 0 < self.rate < 1 or self.max_tokens < 8:
            raise ArgumentError(
                "an inspector needs at least one epoch, a batch of at least 1, a rate between 0 "
                f"and 1 and max_tokens of at least 8, got {self}"
            )


@dataclass(frozen=True)
class Report:
    """What was trained on, and the figures on the held-out split.

    ``metrics["control"]``: those of a classifier that reads no responses, and ``"gain"`` the
    balanced accuracy beyond its own.
    """

    folder: str
    encoder: str
    temperature: float
    examples: dict[str, int]
    metrics: dict[str, Any]
    threshold: float = 0.5

    def as_json(self) -> dict[str, Any]:
        """In the form that ``--json`` prints."""
        return {
            "mergesafe": __version__, "kind": "inspector", "path": self.folder,
            "encoder": self.encoder, "temperature": self.temperature,
            "threshold": self.threshold, "examples": self.examples, "metrics": self.metrics,
        }  # fmt: skip


def train_inspector(
    data: Path | str,
    out: Path | str,
    *,
    encoder: str = SCRATCH,
    criterion: str | None = None,
    training: Training | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    measured: Callable[[Report], None] | None = None,
) -> Report:
    """Train an inspector on labelled responses and save it to the folder ``out``.

    ``encoder``: the folder of a pretrained encoder such as all-MiniLM-L6-v2's, or ``scratch``.
    ``criterion``: which records of an alignment set to take, where it has several.
    70 % of the questions are trained on; 15 % choose the epoch and the temperature; the figures
    of the report are those on the 15 % that took no part. The same encoder is then trained in the
    same way on the questions alone: the control. ``measured`` is told of the figures before
    anything is written.

    Raises:
        DataError: the data are malformed or too few.
        ModelError: the encoder cannot be loaded.
        OutputError: ``out`` exists.
        RequirementError: the held-out figures do not show that it learned anything about responses:
            the 95 % interval of its AUC or balanced accuracy reaches down to one half, or that of
            its balanced accuracy minus the control's to 0. Nothing is written then.
    """
    training = training or Training()
    source, target = Path(data), Path(out)
    check_trained_target(target, SETTINGS, "inspector", overwrite)
    about, examples = read_labelled(source, criterion)
    parts = split(examples, training.seed, source)
    _check_false_alarms(parts["calibration"], training, source)
    require()
    model, tokenizer = _trained(encoder, parts, training, of_epochs(progress))
    calibrating = logits(model, tokenizer, _pairs(parts["calibration"]), training.max_tokens)
    temperature = fit_temperature(calibrating, _labels(parts["calibration"]))
    threshold = _threshold(calibrating, parts["calibration"], temperature, training)
    scores = logits(model, tokenizer, _pairs(parts["heldout"]), training.max_tokens)
    labels = _labels(parts["heldout"])
    without = _control(encoder, parts, training)
    found = _measure(scores, labels, temperature) | {
        "control": figures(without, labels), "gain": gain(scores, without, labels).as_dict(),
    }  # fmt: skip
    settings = Settings(
        __version__, temperature, training.max_tokens, Path(encoder).name, training.seed,
        {"name": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}, found,
        criterion=about, threshold=threshold,
    )  # fmt: skip
    counts = {str(name): len(part) for name, part in parts.items()}
    report = Report(str(target), settings.encoder, temperature, counts, found, threshold)
    if measured:
        measured(report)
    refuse(not_learned(found))
    _save(model, tokenizer, settings, target, overwrite)
    return report


def _check_false_alarms(examples: Sequence[Example], training: Training, source: Path) -> None:
    """Refuse a share that so few good responses to calibrate on cannot keep."""
    good = sum(each.safe for each in examples)
    wanted = training.false_alarms
    if wanted is not None and wanted * (good + 1) < 1:
        raise DataError(
            f"{good} good responses to calibrate on are too few for {wanted:g} of false alarms, "
            f"expected at least {math.ceil(1 / wanted) - 1}. Give more good responses, or allow "
            "more false alarms",
            source=source,
        )


def _threshold(
    scores: Sequence[float], examples: Sequence[Example], temperature: float, training: Training
) -> float:
    """What a squad rewrites below: one half, or less where that would be too many good ones."""
    if training.false_alarms is None:
        return 0.5
    good = [sigmoid(s / temperature) for s, each in zip(scores, examples, strict=True) if each.safe]
    found = threshold_for(good, training.false_alarms)
    assert found is not None
    return min(max(found, 1e-3), 0.5)


def _trained(
    encoder: str,
    parts: dict[Split, list[Example]],
    training: Training,
    progress: Progress | None,
) -> tuple[Any, Any]:
    """The encoder after training, and its tokenizer."""
    import torch

    torch.manual_seed(training.seed)
    texts = [text for each in parts["train"] for text in (each.question, each.response)]
    model, tokenizer = _start(encoder, texts, training.max_tokens)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with running(encoder):
        _fit(model, tokenizer, parts, training, progress)
    return model, tokenizer


def _control(
    encoder: str, parts: dict[Split, list[Example]], training: Training
) -> Sequence[float]:
    """Held-out logits of the same encoder, trained in the same way on the questions alone."""
    alone = {name: [replace(e, response="") for e in part] for name, part in parts.items()}
    model, tokenizer = _trained(encoder, alone, training, None)
    return logits(model, tokenizer, _pairs(alone["heldout"]), training.max_tokens)


def measure_inspector(folder: Path | str, data: Path | str) -> Report:
    """The figures of a trained inspector on other labelled responses; its control is the
    inspector itself with the responses left out.

    Raises:
        DataError: the data are malformed, or the folder holds no inspector.
    """
    inspector = Inspector(Path(folder))
    settings = inspector.settings
    examples = read_examples(Path(data))
    labels = _labels(examples)
    blank = [(each.question, "") for each in examples]
    scores, without = (
        logits(inspector.model, inspector.tokenizer, pairs, settings.max_tokens)
        for pairs in (_pairs(examples), blank)
    )
    found = _measure(scores, labels, settings.temperature) | {
        "control": figures(without, labels), "gain": gain(scores, without, labels).as_dict(),
    }  # fmt: skip
    return Report(
        str(folder),
        settings.encoder,
        settings.temperature,
        {"test": len(examples)},
        found,
        settings.threshold,
    )


def _measure(scores: Sequence[float], labels: list[bool], temperature: float) -> dict[str, Any]:
    """Figures of p(safe), a positive being a safe response."""
    raw = [sigmoid(score) for score in scores]
    calibrated = [sigmoid(score / temperature) for score in scores]
    return {
        **figures(scores, labels),
        "calibration_error": calibration_error(calibrated, labels),
        "calibration_error_uncalibrated": calibration_error(raw, labels),
        "cross_entropy": cross_entropy(calibrated, labels),
        "safe": sum(labels),
    }


def _start(encoder: str, texts: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    if encoder == SCRATCH:
        from mergesafe.safety.inspector.scratch import scratch_encoder

        return scratch_encoder(texts, max_tokens)
    import torch

    folder = present(Path(encoder))
    # An encoder has no output layer yet: it begins with random numbers and is trained.
    model = load_model(folder, CLASSIFIER, dtype=torch.float32, complete=False, outputs=1)
    return model, load_tokenizer(folder)


def _fit(
    model: Any,
    tokenizer: Any,
    parts: dict[Split, list[Example]],
    training: Training,
    progress: Progress | None,
) -> None:
    """Train in place and leave the weights of the epoch with the least calibration loss."""
    import torch

    train, chosen = parts["train"], parts["calibration"]
    steps = training.epochs * -(-len(train) // training.batch)
    warm = max(1, steps // 10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    rng = random.Random(training.seed)
    best: tuple[float, Any] | None = None
    for epoch in range(1, training.epochs + 1):
        model.train()
        order = rng.sample(train, len(train))
        total = 0.0
        for begin in range(0, len(order), training.batch):
            group = order[begin : begin + training.batch]
            batch = encode_pairs(tokenizer, _pairs(group), training.max_tokens)
            labels = torch.tensor([float(each.safe) for each in group])
            # Weights stay in float32; the products in bfloat16 take half the time on a CPU.
            with torch.autocast(model.device.type, dtype=torch.bfloat16):
                output = model(**batch.to(model.device)).logits.squeeze(-1)
            loss: Any = torch.nn.functional.binary_cross_entropy_with_logits(
                output.float(), labels.to(model.device)
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(group)
        model.eval()
        scores = logits(model, tokenizer, _pairs(chosen), training.max_tokens)
        held = cross_entropy([sigmoid(score) for score in scores], _labels(chosen))
        if progress:
            progress(epoch, total / len(train), held)
        if best is None or held < best[0]:
            best = held, copy.deepcopy(model.state_dict())
    assert best is not None
    model.load_state_dict(best[1])


def _save(model: Any, tokenizer: Any, settings: Settings, out: Path, overwrite: bool) -> None:
    """Write the folder under another name first: a half-written inspector is never at ``out``."""

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / SETTINGS).write_bytes(settings.as_json())

    save_trained(out, SETTINGS, "inspector", overwrite, write)


def _pairs(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [(each.question, each.response) for each in examples]


def _labels(examples: Sequence[Example]) -> list[bool]:
    return [each.safe for each in examples]
