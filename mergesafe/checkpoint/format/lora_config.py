"""``adapter_config.json`` of a LoRA adapter: what changes its delta, rank and alpha by module.

Every setting is known to leave ``scale * B @ A`` as it is, is refused by name, or, where a newer
PEFT wrote one that is not known here, is refused unless it is off: what it does cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

from mergesafe.checkpoint.format.patterns import PatternError, matches
from mergesafe.checkpoint.places.location import Location
from mergesafe.errors import MAX_REPORTED, CheckpointError
from mergesafe.untrusted import show

MERGE_FIRST: Final = "Merge the adapter into its base with PEFT (merge_and_unload) and use that."

#: Settings that make the delta something other than scale * B @ A, and what they mean.
_REFUSED: Final = {
    "use_dora": "DoRA scales the merged columns",
    "lora_bias": "B has a bias",
    "trainable_token_indices": "token embeddings were fine-tuned besides the adapter",
    "layer_replication": "layers of the base are repeated",
    "target_parameters": "it adapts parameters that are not linear layers",
    "alora_invocation_tokens": "activated LoRA changes only some positions",
    "use_qalora": "QALoRA pools the input",
    "use_bdlora": "BD-LoRA is block-diagonal",
    "arrow_config": "Arrow routes between adapters",
    "kasa_config": "KaSA changes the base weights",
    "monteclora_config": "MonteCLoRA samples its weights",
    "velora_config": "VeLoRA is not known to leave the delta as it is",
}
#: Settings of training, and those that are read here or say nothing about the delta.
_HARMLESS: Final = frozenset(
    ("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
     "revision", "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha",
     "lora_dropout", "modules_to_save", "fan_in_fan_out", "bias", "use_rslora", "init_lora_weights",
     "layers_to_transform",
     "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core",
     "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
     "qalora_group_size", "ensure_weight_tying", "unsloth_fixed", "library_name", "tags",
     "transformers_version")
)  # fmt: skip
#: Initialisations that leave the base as it is; others (PiSSA, OLoRA, CorDA, LoftQ, ...) change it.
_PLAIN_INIT: Final = (None, True, False, "gaussian", "eva", "orthogonal")
#: Patterns of one setting; some adapters have one for each module.
_PATTERN_COUNT: Final = 100_000


def fail(path: Location, problem: str) -> NoReturn:
    raise CheckpointError(f"{path}: {problem}")


def check_config(path: Location, config: dict[str, Any]) -> None:
    """Refuse an adapter whose delta is not ``scale * B @ A``.

    Raises:
        CheckpointError: names the setting and what it means.
    """
    if config.get("peft_type") != "LORA":
        fail(
            path,
            f"peft_type is {show(config.get('peft_type'))}, only 'LORA' is supported. "
            f"{MERGE_FIRST}",
        )
    for key, meaning in _REFUSED.items():
        if config.get(key):
            fail(path, f"{key} is {show(config[key])}: {meaning}. {MERGE_FIRST}")
    unknown = [key for key in config if key not in _HARMLESS and key not in _REFUSED]
    for key in unknown:
        if config[key]:
            fail(
                path,
                f"{show(key)} is {show(config[key])}: mergesafe does not know this setting, which "
                f"may change what the adapter adds. {MERGE_FIRST}",
            )
    if config.get("bias", "none") != "none":
        fail(path, f"bias is {show(config['bias'])}, expected 'none'. {MERGE_FIRST}")
    if config.get("init_lora_weights") not in _PLAIN_INIT:
        fail(
            path,
            f"init_lora_weights is {show(config['init_lora_weights'])}, which may change the base "
            f"weights too. {MERGE_FIRST}",
        )


class Setting:
    """The value of ``key`` (rank or alpha) in each of the adapted modules.

    As in PEFT, the first pattern that matches the end of the module's name decides, else the
    adapter's common value.

    Raises:
        CheckpointError: a value or a pattern is none, or a pattern takes too long to match.
    """

    def __init__(
        self,
        path: Location,
        config: dict[str, Any],
        key: str,
        patterns_key: str,
        modules: Iterable[str],
        *,
        whole: bool,
    ) -> None:
        self._key = patterns_key
        self._default = _number(path, key, config.get(key), whole=whole)
        patterns = config.get(patterns_key) or {}
        if not isinstance(patterns, dict) or len(patterns) > _PATTERN_COUNT:
            fail(path, f"{patterns_key} is {show(patterns)}, expected an object of patterns.")
        values = [_number(path, patterns_key, value, whole=whole) for value in patterns.values()]
        names = list(modules)
        try:
            found = matches(list(patterns), names)
        except PatternError as error:
            fail(
                path,
                f"{patterns_key} has the pattern {show(error.pattern)}, which {error.why}. Replace "
                "it by plain module names.",
            )
        self._values: dict[str, float] = {}
        for value, numbers in zip(values, found, strict=True):
            for number in numbers:
                self._values.setdefault(names[number], value)
        self._idle = [text for text, numbers in zip(patterns, found, strict=True) if not numbers]

    def of(self, module: str) -> float:
        """The value for the module of this name, one of those that were given."""
        return self._values.get(module, self._default)

    def unused(self) -> Iterator[str]:
        """A warning for each pattern that matches none of the modules."""
        for text in self._idle[:MAX_REPORTED]:
            yield f"{self._key} has the pattern {show(text)}, which matches no adapted module"
        if (more := len(self._idle) - MAX_REPORTED) > 0:
            yield f"{self._key} has {more} more patterns that match no adapted module"


def _number(path: Location, key: str, value: object, *, whole: bool) -> float:
    kinds = (int,) if whole else (int, float)
    # bool is a subclass of int; NaN and huge values fail the comparison.
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value < 2**31:
        kind = "integer" if whole else "number"
        fail(path, f"{key} is {show(value)}, expected a positive {kind}. Fix or re-export it.")
    return value
