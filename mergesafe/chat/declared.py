"""What a model's folder asks transformers to run or to fetch besides its weights: refused by name.

transformers follows what it finds in a folder: classes that ``auto_map`` names, an adapter that
lies beside the model, weights that ``config.json`` calls otherwise, attention kernels of the Hub.
Each would put other people's code, or other weights than those that are merged and reported, in
the place of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mergesafe.checkpoint.format.model import CONFIG_LIMIT, CONFIG_NAME
from mergesafe.checkpoint.places.location import Location, at, open_regular, read_json_file
from mergesafe.checkpoint.places.within import READ, check_within
from mergesafe.errors import CheckpointError, ModelError
from mergesafe.strict_json import parse_json
from mergesafe.untrusted import reason, show

GENERATION_NAME: Final = "generation_config.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_ADAPTER: Final = "adapter_config.json"
#: Folder and key of a function that replaces how a model generates.
_CUSTOM_GENERATE: Final = "custom_generate"
#: Shards of torch's distributed checkpoints, which transformers prefers to all other weights.
_DISTRIBUTED: Final = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
#: Keys, at any depth, that name code, and what they do.
_CODE_KEYS: Final = {
    "custom_pipelines": "names pipelines of its own",
    _CUSTOM_GENERATE: "replaces how the model generates",
    "transformers_weights": "names other weights than those that are merged",
}
_KERNEL_KEYS: Final = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
)  # fmt: skip
#: Keys that steer how transformers loads and not what the model is. What cannot be reached by a
#: configuration cannot be turned against whoever loads it.
_LOADING_KEYS: Final = frozenset((
    *_KERNEL_KEYS, "auto_map", "configuration_files", "_name_or_path", "name_or_path",
    "_commit_hash", "trust_remote_code", "fusion_config", "distributed_config", "kernel_config",
    "use_kernels", "_auto_class", "gguf_file", "subfolder", "local_files_only",
))  # fmt: skip
_DTYPE_KEYS: Final = ("dtype", "torch_dtype")
_DTYPES: Final = frozenset((
    "auto", "bfloat16", "float16", "float32", "float64", "half", "float", "double",
    "float8_e4m3fn", "float8_e5m2",
))  # fmt: skip
#: Settings of packed weights, which have types of numbers of their own.
PACKED: Final = ("quantization_config", "compression_config")
ADVICE: Final = (
    "mergesafe never runs a model's own code. Convert the model to an architecture that "
    "transformers has, or serve it elsewhere and give the endpoint."
)


def settings_of(place: Location) -> dict[str, Any]:
    """``config.json`` of the model at ``place``.

    Raises:
        CheckpointError: it is missing, or not one JSON object.
    """
    return read_json_file(place / CONFIG_NAME, CONFIG_LIMIT)


def loose_object(file: Location) -> dict[str, Any]:
    """A JSON object as transformers reads it: a key may appear twice; ``{}`` for a missing file.

    Raises:
        CheckpointError: it cannot be read, or is no JSON object.
    """
    if not at(file).present():
        return {}
    with open_regular(file) as stream:
        try:
            data = stream.read(CONFIG_LIMIT + 1)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot read ({reason(error)}).") from error
    problem = f"larger than {CONFIG_LIMIT:,} bytes" if len(data) > CONFIG_LIMIT else None
    value: Any = None
    if problem is None:
        try:
            value = parse_json(data, constants=True)
        except ValueError as error:
            problem = str(error)
    if problem is None and not isinstance(value, dict):
        problem = f"a JSON {type(value).__name__}"
    if problem is not None:
        raise CheckpointError(f"{file}: {problem}; expected one JSON object.")
    return dict(value)


def check_own(place: Location, name: str) -> None:
    """Refuse a text file of the model at ``place`` that is a link out of its folder.

    Raises:
        CheckpointError: it is.
    """
    if isinstance(place, Path):
        check_within(place, place / name, READ)


def refuse_strangers(place: Location, settings: dict[str, Any]) -> None:
    """Refuse a folder that holds something that would be loaded in the model's place.

    Raises:
        ModelError: an adapter, a function that generates, other weights, a kernel of the Hub, a
            type of number that is none.
        CheckpointError: a link leads out of the folder.
    """
    for name in (CONFIG_NAME, GENERATION_NAME, TOKENIZER_CONFIG):
        check_own(place, name)
    names = at(place).names()
    if names is None:
        names = [name for name in (_ADAPTER, _CUSTOM_GENERATE) if at(place / name).present()]
    if _ADAPTER in names:
        raise ModelError(
            f"{place / _ADAPTER}: an adapter lies beside the model, and transformers would put it "
            "on top of the weights, or load another base. Remove it from the folder, or write "
            "MODEL+ADAPTER with the adapter in a folder of its own."
        )
    if _CUSTOM_GENERATE in names:
        raise ModelError(f"{place / _CUSTOM_GENERATE}: replaces how the model generates. {ADVICE}")
    other = next((name for name in sorted(names) if _DISTRIBUTED.match(name)), None)
    if other is not None:
        raise ModelError(
            f"{place / other}: a shard of a distributed checkpoint, which transformers would load "
            "instead of the weights that are merged. Remove it, or save the model again with "
            "save_pretrained."
        )
    for name, found in (
        (CONFIG_NAME, {key: value for key, value in settings.items() if key not in PACKED}),
        (GENERATION_NAME, loose_object(place / GENERATION_NAME)),
        (TOKENIZER_CONFIG, loose_object(place / TOKENIZER_CONFIG)),
    ):
        for key, value in entries(found):
            _refuse_entry(place / name, key, value)


def _refuse_entry(file: Location, key: str, value: object) -> None:
    if key in _CODE_KEYS and value:
        raise ModelError(f"{file}: {key} is {show(value)}; it {_CODE_KEYS[key]}. {ADVICE}")
    if key in _KERNEL_KEYS:
        texts = [text for text in _texts(value) if "/" in text or "|" in text]
        if texts:
            raise ModelError(
                f"{file}: {key} is {show(texts[0])}, a kernel to download and run. {ADVICE}"
            )
    if key in _DTYPE_KEYS and value is not None:
        named = value.removeprefix("torch.") if isinstance(value, str) else None
        if named not in _DTYPES:
            raise ModelError(
                f"{file}: {key} is {show(value)}, expected the name of a floating-point type such "
                "as 'bfloat16'. Correct it, or leave it out."
            )


def cleaned(settings: dict[str, Any]) -> dict[str, Any]:
    """``settings`` without what steers how they are loaded, at any depth."""
    return {key: _cleaned(value) for key, value in settings.items() if key not in _LOADING_KEYS}


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return cleaned(value)
    if isinstance(value, list):
        return [_cleaned(each) for each in value]
    return value


def entries(value: object) -> Iterator[tuple[str, object]]:
    """Every key of every object in ``value``, and what it holds."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for _, inner in entries(value):
        if isinstance(inner, str):
            yield inner
