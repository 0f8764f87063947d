"""Open a checkpoint: a folder of safetensors shards, or one file. Only headers are read.

Which weights a folder holds:

* ``model.safetensors.index.json``: the shards that it names, in natural order of their names;
* ``model.safetensors`` alone: that file;
* both: allowed only when the index names no other file than ``model.safetensors``. transformers
  would silently prefer the single file; two different sets of weights are an error here.

Shards may be symbolic links (the Hugging Face cache is made of them), but a shard's name is a
plain file name: an index cannot point outside its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from mergesafe.architecture.names import unwrap
from mergesafe.architecture.tying import head_of, is_tied
from mergesafe.checkpoint.format.safetensors import HEADER_LIMIT, TensorInfo, read_header
from mergesafe.checkpoint.places.location import Location, at, read_json_file
from mergesafe.errors import CheckpointError, nearest
from mergesafe.untrusted import is_text, show

SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"
CONFIG_NAME: Final = "config.json"
PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
#: Configuration files larger than this are not read.
CONFIG_LIMIT: Final = 16_000_000
#: Headers of remote shards that are read at a time.
_REMOTE_HEADERS: Final = 16
CONVERT_ADVICE: Final = (
    "Pickled weights can run code when they are loaded, so they are refused. Convert them where "
    "you trust them: AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(TARGET)."
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's tensors (shard by shard, offsets ascending), its ``config.json`` and its shards.

    ``tensors`` is keyed by names without the ``wrappers`` that training put around the model
    (``_orig_mod.`` and the like); each :class:`TensorInfo` has the name as it is stored.
    """

    path: Location
    tensors: dict[str, TensorInfo]
    config: dict[str, Any]
    shards: tuple[Location, ...]
    wrappers: tuple[str, ...] = ()

    @property
    def tied(self) -> bool | None:
        """Whether the output head shares the input embedding, by the configuration.

        None: it does not say, and the architecture's default is not known.
        """
        return is_tied(self.config, headless=head_of(self.tensors) is None)


def open_checkpoint(path: Location | str) -> Checkpoint:
    """Read the headers of the checkpoint at ``path``: a folder or one ``.safetensors`` file.

    A single file is weights alone: its ``config`` is empty, whatever lies beside it.

    Raises:
        CheckpointError: there is no checkpoint, it is of a refused kind, or a file of it is
            malformed, missing or inconsistent with the index.
    """
    path = Path(path) if isinstance(path, str) else path
    if not at(path).exists():
        refuse_missing(path)
    if not at(path).is_dir():
        return _open_file(path)
    index, single = path / INDEX_NAME, path / SINGLE_NAME
    if at(index).exists():
        weight_map = _read_index(index)
        if at(single).exists():
            _check_same_weights(path, weight_map)
        names = sorted(set(weight_map.values()), key=_natural)
        shards: tuple[Location, ...] = tuple(path / name for name in names)
        tensors = _read_shards(shards, index)
        _check_index(index, weight_map, tensors)
    elif at(single).exists():
        shards = (single,)
        tensors = read_header(single)[0]
    else:
        _refuse_folder(path)
    config = path / CONFIG_NAME
    return _checkpoint(
        path, tensors, read_json_file(config, CONFIG_LIMIT) if at(config).exists() else {}, shards
    )


def _checkpoint(
    path: Location,
    tensors: dict[str, TensorInfo],
    config: dict[str, Any],
    shards: tuple[Location, ...],
) -> Checkpoint:
    if not tensors:
        raise CheckpointError(f"{path}: the checkpoint holds no tensors. Download it again.")
    names, wrappers = unwrap(tensors, path)
    if wrappers:
        tensors = {plain: tensors[stored] for plain, stored in names.items()}
    return Checkpoint(path, tensors, config, shards, wrappers)


def _open_file(path: Location) -> Checkpoint:
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        raise CheckpointError(f"{path}: this is a pickle. {CONVERT_ADVICE}")
    if suffix == ".gguf":
        raise CheckpointError(f"{path}: {_gguf_advice()}")
    if suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: expected a .safetensors file or the folder of a checkpoint. Give the folder "
            f"that holds {SINGLE_NAME} or {INDEX_NAME}."
        )
    return _checkpoint(path, read_header(path)[0], {}, (path,))


def _read_index(index: Location) -> dict[str, str]:
    """The validated ``weight_map``: tensor name -> file name of its shard."""
    weight_map = read_json_file(index, HEADER_LIMIT).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index}: weight_map is {show(weight_map)}, expected an object that maps tensor names "
            "to shards. Download the index again."
        )
    for name, shard in weight_map.items():
        if not is_text(shard) or not name:
            raise CheckpointError(
                f"{index}: weight_map maps {show(name)} to {show(shard)}, expected a tensor name "
                "and the name of a shard. Download the index again."
            )
    for shard in set(weight_map.values()):
        _check_shard_name(index, shard)
    return weight_map


def _check_shard_name(index: Location, shard: str) -> None:
    if "/" in shard or "\\" in shard or shard in ("", ".", ".."):
        raise CheckpointError(
            f"{index}: the shard {show(shard)} is not a plain file name; an index may not leave "
            "its folder. Do not use this checkpoint unless you trust whoever made it."
        )
    if not shard.endswith(".safetensors"):
        raise CheckpointError(
            f"{index}: the shard {show(shard)} is not a .safetensors file. Only safetensors shards "
            "are read; convert the checkpoint."
        )


def _read_shards(shards: tuple[Location, ...], index: Location) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for shard, infos in zip(shards, _headers(shards, index), strict=True):
        name = next((name for name in infos if name in tensors), None)
        if name is not None:
            raise CheckpointError(
                f"{index}: tensor {show(name)} is in two shards, {tensors[name].path.name} and "
                f"{shard.name}. Shards of different checkpoints are mixed: download it again."
            )
        tensors.update(infos)
    return tensors


def _headers(shards: Sequence[Location], index: Location) -> Iterable[dict[str, TensorInfo]]:
    def read(shard: Location) -> dict[str, TensorInfo]:
        if not at(shard).exists():
            raise CheckpointError(
                f"{index}: the shard {show(shard.name)} is not in the folder. The download is "
                "incomplete: fetch the missing shard."
            )
        return read_header(shard)[0]

    if isinstance(index, Path):  # one after the other: parsing holds the interpreter's lock
        return map(read, shards)
    with ThreadPoolExecutor(_REMOTE_HEADERS) as pool:  # each costs round trips to the server
        return list(pool.map(read, shards))


def _check_index(
    index: Location, weight_map: dict[str, str], tensors: dict[str, TensorInfo]
) -> None:
    for name, shard in weight_map.items():
        found = tensors.get(name)
        if found is None or found.path.name != shard:
            where = "no shard has it" if found is None else f"it is in {found.path.name}"
            raise CheckpointError(
                f"{index}: tensor {show(name)} should be in {shard}, but {where}. The index does "
                "not belong to these shards: download the checkpoint again."
            )
    for name, info in tensors.items():
        if name not in weight_map:
            raise CheckpointError(
                f"{index}: tensor {show(name)} is in {info.path.name} but not in the index. "
                "The index is stale: download the checkpoint again."
            )


def _check_same_weights(path: Location, weight_map: dict[str, str]) -> None:
    others = sorted(set(weight_map.values()) - {SINGLE_NAME}, key=_natural)
    if others:
        raise CheckpointError(
            f"{path}: holds both {SINGLE_NAME} and an index that refers to {others[0]}; which "
            "weights are meant is unclear. Remove the ones that you do not want."
        )


def refuse_missing(path: Location, here: Path | None = None) -> NoReturn:
    """Raise the error for a location where nothing is.

    ``here``: what was looked for from the current directory before, in vain.
    """
    advice = "Check the spelling."
    if at(path).present():
        advice = "It is a symbolic link to a missing place."
    elif isinstance(path, Path):
        close = similar(path, *([here] if here else []))
        if close is not None:
            advice = f"Did you mean {close}?"
        elif here is not None:
            advice = "Check the spelling: the current directory has nothing of that name either."
    raise CheckpointError(f"{path}: no such file or folder. {advice}")


def similar(*paths: Path) -> Path | None:
    """What lies beside one of the missing ``paths``, of one name, and resembles it the most.

    Only what may be a model or an adapter: a folder or a ``.safetensors`` file.
    """
    found: dict[str, Path] = {}
    for path in paths:
        with suppress(OSError), os.scandir(path.parent) as entries:
            for each in entries:
                if each.name.endswith(".safetensors") or each.is_dir():
                    found[each.name] = path.parent / each.name
    close = nearest(paths[0].name, found.keys() - {paths[0].name})
    return found[close] if close else None


def _refuse_folder(path: Location) -> NoReturn:
    """Say what the folder holds instead of a safetensors checkpoint."""
    names = sorted(at(path).names() or [])
    if "adapter_config.json" in names:
        problem = "this is a LoRA adapter, not a model. Write it as base+adapter."
    elif "model_index.json" in names:
        problem = (
            "this is a pipeline of diffusers, which holds several models in folders of their own. "
            "Merge one of them: give the path of its file, such as "
            f"{path.name}/unet/diffusion_pytorch_model.safetensors."
        )
    elif stray := [name for name in names if name.endswith(".safetensors")]:
        problem = (
            f"holds {show(stray[0])} but neither {SINGLE_NAME} nor {INDEX_NAME}. Download the "
            "missing index, or give the path of the one file that you mean."
        )
    elif pickles := [name for name in names if name.endswith(PICKLE_SUFFIXES)]:
        problem = f"holds pickled weights only ({show(pickles[0])}). {CONVERT_ADVICE}"
    elif any(name.endswith(".gguf") for name in names):
        problem = _gguf_advice()
    else:
        problem = (
            f"no checkpoint in this folder: expected {SINGLE_NAME} or {INDEX_NAME} with its shards."
        )
    raise CheckpointError(f"{path}: {problem}")


def _gguf_advice() -> str:
    return (
        "GGUF weights are quantised for inference and cannot be merged as they are. Use the "
        "original safetensors checkpoint, or dequantise it with transformers: m = "
        "AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=NAME, dtype='bfloat16'); "
        "m.hf_quantizer = None; del m.config.quantization_config; m.save_pretrained(TARGET)"
    )


def _natural(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Sort key in which ``part-2`` comes before ``part-10``; the name itself breaks ties."""
    # Digit runs compare by length after stripping zeros, then as text: no huge integers are made.
    parts = re.split(r"([0-9]+)", name)
    key = tuple(
        (len(part.lstrip("0")), part.lstrip("0")) if position % 2 else (0, part)
        for position, part in enumerate(parts)
    )
    return key, name
