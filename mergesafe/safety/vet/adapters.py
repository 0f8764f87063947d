"""Whether an adapter's configuration tells the truth about its tensors, its base and its size.

PEFT builds the modules that ``adapter_config.json`` declares and loads tensors into those alone:
what lies beside them it leaves out with a log line. A merge adds every pair that the file holds. So
an adapter can be tried with PEFT as one model and be merged as another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.format.lora import CONFIG_NAME, WEIGHTS_NAME, LoraPair
from mergesafe.checkpoint.format.lora_whole import undeclared
from mergesafe.checkpoint.format.patterns import PatternError
from mergesafe.checkpoint.format.safetensors import read_header
from mergesafe.checkpoint.places.location import Location
from mergesafe.errors import CheckpointError
from mergesafe.results.vet import Finding
from mergesafe.safety.vet.findings import amount, listing
from mergesafe.safety.vet.folder import read_settings
from mergesafe.safety.vet.matching import full_matches, idle
from mergesafe.untrusted import show

#: lora_alpha / r. Published adapters lie between 1/4 (alpha 16, r 64) and 16 (alpha 128, r 8).
SCALES: Final = (0.01, 32.0)
_PREFIX: Final = "base_model.model."
#: ``all-linear`` leaves out what is no linear layer or is the head (PEFT 0.21, tuners_utils.py).
_NOT_LINEAR: Final = frozenset(
    ("lm_head", "embed_out", "embed_tokens", "wte", "wpe", "shared", "score", "classifier", "gate",
     "router")
)  # fmt: skip
#: Names of folders that say nothing about the model inside.
_GENERIC: Final = re.compile(
    r"(?:base|model|merged|checkpoint|output|out|snapshot|tmp)?s?(?:[-_]?(?:model|\d+))?|[0-9a-f]{40}"
)
#: Ends of the names of quantized copies, in which adapters are often trained.
_QUANTIZED: Final = re.compile(
    r"(?:-unsloth)?-(?:bnb-)?[48]bit$|-(?:gptq|awq|fp8|gguf|int[48])(?:-.*)?$"
)
#: Letters of a module's name, and its parts; real ones have a fifth of them.
_NAME: Final = 1000
_PARTS: Final = 50
#: Letters of a model's name that are looked at.
_REFERENCE: Final = 500
_HUB_CACHE: Final = re.compile(r"models--(?:.+--)?(?P<name>[^/]+)/snapshots/[^/]+$")


@dataclass(frozen=True)
class AdaptedBase:
    """What an adapter is applied to.

    ``names``: what the base may be called: its folder or Hub id, and what its config says.
    ``modules``: its modules with a matrix. ``pairs``: the deltas by the names of the base's
    tensors. Both are None where the adapter or its base could not be opened.
    """

    names: Sequence[str]
    modules: Collection[str] | None = None
    pairs: Mapping[str, LoraPair] | None = None


def check_adapter(folder: Location, base: AdaptedBase) -> Iterator[Finding]:
    """Where ``adapter_config.json`` and the tensors beside it disagree; headers only."""
    try:
        config = read_settings(folder / CONFIG_NAME)
        tensors = read_header(folder / WEIGHTS_NAME)[0]
    except CheckpointError:
        return  # opening the parent has said so
    modules = dict.fromkeys(
        name.removeprefix(_PREFIX).partition(".lora_")[0] for name in tensors if ".lora_" in name
    )
    yield from _base_name(config, base.names)
    giant = [m for m in modules if len(m) > _NAME or m.count(".") >= _PARTS]
    if giant:
        what = "module names longer than any model has: what the adapter declares is not compared"
        yield Finding("unfit", "files", what, f"{WEIGHTS_NAME}: {show(giant[0])}")
        return
    yield from _targets(config, list(modules), base)
    yield from _patterns(config, list(modules))
    if whole := undeclared(config, tensors):
        count = amount(len(whole), "whole tensor stands", "whole tensors stand")
        what = (
            f"{count} in place of the base's, which modules_to_save does not declare: the adapter "
            "changes more than it says. Ask its author"
        )
        yield Finding("warning", "files", what, f"{WEIGHTS_NAME}: {listing(whole)}")
    if base.pairs:
        yield from _scale(base.pairs)


def base_names(reference: str, config: Mapping[str, Any]) -> list[str]:
    """What a base may be called: the end of its path or Hub id, and what its configuration says."""
    said = config.get("_name_or_path")
    return [reference, *([said] if isinstance(said, str) and said else [])]


def plain_name(reference: str) -> str:
    """The name of a model without owner, folder, revision and mark of a quantized copy."""
    text = reference[-_REFERENCE:].replace("\\", "/").rstrip("/")
    cached = _HUB_CACHE.search(text)
    name = cached["name"] if cached else Path(text).name.partition("@")[0]
    return _QUANTIZED.sub("", name.lower())


def _base_name(config: Mapping[str, Any], names: Sequence[str]) -> Iterator[Finding]:
    declared = config.get("base_model_name_or_path")
    if not isinstance(declared, str) or not declared:
        return
    known = [plain_name(name) for name in names]
    if plain_name(declared) in known:
        return
    if all(_GENERIC.fullmatch(name) for name in known):
        what = (
            f"trained on {show(declared)}; the base {show(names[0])} does not say which model it "
            "is. Check that it is that one"
        )
        yield Finding("note", "files", what, CONFIG_NAME)
        return
    what = (
        f"trained on {show(declared)}, applied to {show(names[0])}: on another base the same delta "
        "gives another model. Use the base that it was trained on, unless the folder only has "
        "another name"
    )
    yield Finding("warning", "files", what, CONFIG_NAME)


def _targets(
    config: Mapping[str, Any], adapted: Sequence[str], base: AdaptedBase
) -> Iterator[Finding]:
    """Tensors that the configuration does not declare, and modules that have no tensors."""
    target = config.get("target_modules")
    if not target:
        what = (
            "names no target_modules: which of its tensors PEFT would use depends on PEFT's "
            "version. A merge uses all of them"
        )
        yield Finding("warning", "files", what, CONFIG_NAME)
        return
    everything = list(dict.fromkeys([*adapted, *(base.modules or ())]))
    excluded = config.get("exclude_modules")
    declared = _declared(target, everything)
    left_out = _declared(excluded, everything) if excluded else set()
    if declared is None or left_out is None:
        key = "target_modules" if declared is None else "exclude_modules"
        what = (
            f"{key} is {show(config[key])}, of which nothing can be told (no pattern, or one "
            "that takes for ever). Replace it by the names of the modules"
        )
        yield Finding("unfit", "files", what, CONFIG_NAME)
        return
    declared -= left_out
    chosen = _of_layers(config, declared) if isinstance(target, list) else declared
    for outside, key in (
        ([m for m in adapted if m not in declared], "target_modules"),
        ([m for m in adapted if m in declared and m not in chosen], "layers_to_transform"),
    ):
        if outside:
            count = amount(len(outside), "module is adapted that", "modules are adapted that")
            what = (
                f"{count} {key} does not declare: PEFT leaves their tensors out, a merge adds "
                "them, so the merged model is not the one that was tried with PEFT. Get the "
                f"adapter from its author again, or correct {key} if the tensors are meant"
            )
            yield Finding("unfit", "files", what, f"{WEIGHTS_NAME}: {listing(outside)}")
    yield from _untouched(config, chosen, adapted, base)


def _untouched(
    config: Mapping[str, Any], chosen: set[str], adapted: Sequence[str], base: AdaptedBase
) -> Iterator[Finding]:
    """Modules of the base that are declared and have no tensors; declarations of nothing."""
    target = config["target_modules"]
    if base.modules is None or base.pairs is None:
        return
    covered = {name.removesuffix(".weight") for name in base.pairs}
    missing = [m for m in base.modules if m in chosen and m not in covered]
    if missing:
        count = amount(len(missing), "module is declared and has", "modules are declared and have")
        what = (
            f"{count} no tensors: part of the adapter is missing or was removed. Download it "
            "again, or ask its author"
        )
        yield Finding("warning", "files", what, f"{WEIGHTS_NAME}: {listing(missing)}")
    if isinstance(target, list):
        wanted = {t for t in target if isinstance(t, str)}
        hit = {end for module in (*base.modules, *adapted) for end in _ends(module, wanted)}
        if missed := [t for t in target if isinstance(t, str) and t not in hit]:
            what = f"target_modules declares what the base has not: {listing(missed)}"
            yield Finding("note", "files", what, CONFIG_NAME)
    layers = _layers(config)
    if layers and isinstance(target, list):
        found = {_layer_of(module, config) for module in adapted}
        if absent := [str(layer) for layer in layers if layer not in found]:
            what = (
                f"layers_to_transform declares layers that have no tensors: {listing(absent)}. "
                "Download the adapter again, or ask its author"
            )
            yield Finding("warning", "files", what, CONFIG_NAME)


def _declared(target: object, modules: Sequence[str]) -> set[str] | None:
    """The modules that a declaration names, as PEFT reads it; None where it cannot be read."""
    if isinstance(target, str):
        if target == "all-linear":
            return {m for m in modules if m.rpartition(".")[2] not in _NOT_LINEAR}
        return full_matches(target, modules)
    if isinstance(target, list):
        ends = {t for t in target if isinstance(t, str)}
        return {m for m in modules if any(_ends(m, ends))}
    return None


def _ends(module: str, targets: Collection[str]) -> Iterator[str]:
    """Those of the targets that the module is, or ends with after a dot."""
    at = 0
    while at >= 0:
        if module[at:] in targets:
            yield module[at:]
        at = module.find(".", at) + 1 or -1


def _layers(config: Mapping[str, Any]) -> dict[int, None]:
    given = config.get("layers_to_transform")
    listed = given if isinstance(given, list) else [given]
    numbers = (each for each in listed if isinstance(each, int) and not isinstance(each, bool))
    return dict.fromkeys(numbers)


def _of_layers(config: Mapping[str, Any], modules: set[str]) -> set[str]:
    layers = _layers(config)
    if not layers:
        return modules
    # A module that is named in full is adapted whatever its layer.
    exact = modules.intersection(config["target_modules"])
    return exact | {m for m in modules if _layer_of(m, config) in layers}


def _layer_of(module: str, config: Mapping[str, Any]) -> int | None:
    """The first number within the name, after ``layers_pattern`` where there is one, as in PEFT."""
    given = config.get("layers_pattern") or []
    patterns = {p for p in (given if isinstance(given, list) else [given]) if isinstance(p, str)}
    parts = module.split(".")
    for at in range(1, len(parts) - 1):
        if not re.fullmatch(r"[0-9]{1,6}", parts[at]):  # int() takes more digits than ASCII's
            continue
        before = ".".join(parts[:at])
        if any(_ends(before, patterns)) if patterns else at > 1:
            return int(parts[at])
    return None


def _patterns(config: Mapping[str, Any], adapted: Sequence[str]) -> Iterator[Finding]:
    """Keys of rank_pattern and alpha_pattern that are for no module of the adapter."""
    for key in ("rank_pattern", "alpha_pattern"):
        given = config.get(key)
        if not isinstance(given, dict) or not given:
            continue
        try:
            unused = idle(list(given), adapted)
        except PatternError as error:
            what = (
                f"{key} has the pattern {show(error.pattern)}, which {error.why}. Replace it by "
                "module names"
            )
            yield Finding("unfit", "files", what, CONFIG_NAME)
            continue
        if unused:
            count = amount(len(unused), "key matches", "keys match")
            what = (
                f"{count} none of the adapted modules in {key} ({listing(unused)}): the common "
                "value holds there. Check the names"
            )
            yield Finding("warning", "files", what, CONFIG_NAME)


def _scale(pairs: Mapping[str, LoraPair]) -> Iterator[Finding]:
    """alpha / r (alpha / √r of rank-stabilised LoRA) outside what is ever trained."""
    low, high = SCALES
    odd = [(pair.scale, name) for name, pair in pairs.items() if not low <= pair.scale <= high]
    if odd:
        scale, name = max(odd, key=lambda each: max(each[0], 1 / each[0]))
        count = amount(len(odd), "pair is", "pairs are")
        what = (
            f"{count} scaled by lora_alpha / r outside {low:g} to {high:g}, one by {scale:g}: that "
            "blows the change up or hides it. Compare lora_alpha and r with the author's"
        )
        yield Finding("warning", "files", what, f"{CONFIG_NAME}: {name}")
