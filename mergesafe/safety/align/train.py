"""Training an aligner (arXiv 2403.04224): a small causal model that learns x, y → y'.

``mergesafe.train_aligner`` is the function here.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from mergesafe.chat.hf import HfModel
from mergesafe.errors import ArgumentError, DataError, ModelError, RequirementError
from mergesafe.extras import install
from mergesafe.log_lines import of_epochs
from mergesafe.safety.align.examples import read_corrections
from mergesafe.safety.align.fit import AlignerTraining, Progress, encoded, fit
from mergesafe.safety.align.settings import SETTINGS, AlignerSettings
from mergesafe.safety.align.unfinished import Unfinished
from mergesafe.safety.trained_folder import check_trained_target, save_trained
from mergesafe.version import __version__

_RATES: Final = {True: 1e-3, False: 2e-5}
#: The keys of an adapter's configuration that every release of peft knows.
_CONFIG_KEYS: Final = (
    "peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out",
    "init_lora_weights", "use_rslora", "use_dora", "base_model_name_or_path", "inference_mode",
)  # fmt: skip


@dataclass(frozen=True)
class AlignerReport:
    """What was trained on, and nats a token of y' on held-out questions, before and after."""

    folder: str
    criterion: str
    base: str
    lora: bool
    examples: dict[str, int]
    loss_before: float
    loss: float

    @property
    def model(self) -> str:
        """How a squad names the aligner."""
        return f"{self.base}+{self.folder}" if self.lora else self.folder

    def as_json(self) -> dict[str, Any]:
        """In the form that ``--json`` prints."""
        return {
            "mergesafe": __version__, "kind": "aligner", "path": self.folder, "model": self.model,
            "criterion": self.criterion, "base": self.base, "lora": self.lora,
            "examples": self.examples,
            "loss_before": round(self.loss_before, 4), "loss": round(self.loss, 4),
        }  # fmt: skip


def train_aligner(
    data: Path | str,
    out: Path | str,
    *,
    model: str,
    lora: bool = False,
    criterion: str | None = None,
    training: AlignerTraining | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
) -> AlignerReport:
    """Train an aligner on corrections and save it to the folder ``out``, whole or not at all.

    The loss is the cross-entropy of the corrected answer's tokens, −Σ log p(y'_t | x, y, y'_<t) /
    |y'|, its end of turn included; question, bad answer and criterion are the prompt. A tenth of
    the questions are held out and choose the epoch. The same data, model and seed give the same
    aligner on the same machine, after any number of interruptions: the state of the training lies
    beside ``out`` from its first epoch on, and is removed when the aligner is there.

    Args:
        data: JSON lines of an alignment set: preferences (``rejected`` y, ``chosen`` y'), and
            records with ``"safe": true``, whose answers are learned to be left alone.
        model: the folder or Hub id of a chat model.
        lora: train a LoRA adapter of all linear layers, in float32, and write it alone; else
            the whole model is trained, and written in its own dtype.
        criterion: which records to take, where the data hold those of several.
        resume: go on from where a run that did not finish was.
        overwrite: replace the aligner at ``out``, and forget such a run unless ``resume`` is set.
        progress: True prints a line for each epoch; or a function of its number and two losses.

    Raises:
        DataError: the data are malformed or too few.
        ModelError: the model cannot be loaded, or peft is not installed.
        OutputError: ``out`` exists, or cannot be written, or there is an unfinished run that is not
            to be resumed, or cannot be.
        RequirementError: the held-out loss did not fall. Nothing is written then.
    """
    training = training or AlignerTraining()
    source, target = Path(data), Path(out)
    check_trained_target(target, SETTINGS, "aligner", overwrite)
    found = read_corrections(source, criterion, training.seed)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    base = HfModel(model)
    if base.ref.adapter is not None:
        raise ArgumentError(
            f"{model}: an aligner is trained from a model without an adapter; merge it first"
        )
    if lora and find_spec("peft") is None:
        raise ModelError(f"training with --lora needs peft: {install('train')}")
    base.check()
    unfinished = Unfinished(
        target,
        {
            "DATA (SHA-256)": digest, "criterion": found.criterion, "--model": base.identity,
            "--lora": lora, "version of mergesafe": __version__,
            **{f"--{key.replace('_', '-')}": value for key, value in asdict(training).items()},
        },
    )  # fmt: skip
    unfinished.check(resume=resume, overwrite=overwrite)
    parts = {
        name: encoded(base.tokenizer, found.text, part, training.max_tokens)
        for name, part in (("train", found.train), ("heldout", found.heldout))
    }
    if not all(parts.values()):
        raise DataError(
            f"no corrected answer begins within {training.max_tokens} tokens of its prompt; raise "
            "--max-tokens",
            source=source,
        )
    dtype = base.model.dtype
    trained = _trainable(base, lora, training)
    pad = base.tokenizer.pad_token_id
    with base.running():
        before, after = fit(
            trained, parts["train"], parts["heldout"],
            base.tokenizer.eos_token_id if pad is None else pad,
            training.rate or _RATES[lora], training, unfinished, of_epochs(progress),
        )  # fmt: skip
    counts = {name: len(part) for name, part in parts.items()}
    report = AlignerReport(str(target), found.criterion, model, lora, counts, before, after)
    if not after < before:
        unfinished.remove()
        raise RequirementError(
            f"the aligner learned nothing: the loss on held-out questions went from {before:.3f} "
            f"to {after:.3f}. Nothing was written. Give more corrections, or another --rate or "
            "more --epochs."
        )
    settings = AlignerSettings(
        __version__, found.criterion, found.text, model, base.identity, lora,
        training.max_tokens, training.seed,
        {"name": source.name, "sha256": digest},
        {"loss_before": round(before, 4), "loss": round(after, 4), "examples": counts},
    )  # fmt: skip

    def write(folder: Path) -> None:
        if lora:
            _write_adapter(trained, model, folder)
        else:
            trained.to(dtype).save_pretrained(folder)  # the dtype that its checkpoint had
            base.tokenizer.save_pretrained(folder)
        (folder / SETTINGS).write_bytes(settings.as_json())

    save_trained(target, SETTINGS, "aligner", overwrite, write)
    unfinished.remove()
    return report


def _trainable(base: HfModel, lora: bool, training: AlignerTraining) -> Any:
    import torch

    torch.manual_seed(training.seed)
    if not lora:
        return base.model.float()
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=training.rank, lora_alpha=2 * training.rank, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names that peft asks transformers for
        return get_peft_model(base.model, config)


def _write_adapter(model: Any, base: str, folder: Path) -> None:
    """The adapter in PEFT's layout, in float32."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # No embedding was trained; left to itself peft would ask the Hub whether one was resized.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    tensors = {name: state[name].float().contiguous() for name in sorted(state)}
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # safetensors writes a file that only its owner may read
    made = model.peft_config["default"].to_dict()
    config = {key: made[key] for key in _CONFIG_KEYS} | {
        "base_model_name_or_path": base,
        "inference_mode": True,
        # A set in peft: sorted, so that training twice gives the same file.
        "target_modules": sorted(made["target_modules"]),
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(f"{text}\n", encoding="utf-8")
