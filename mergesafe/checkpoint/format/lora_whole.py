"""Whole tensors beside the pairs of a LoRA adapter, which stand in place of the base's.

PEFT stores the modules of ``modules_to_save`` (embeddings and heads of models that learnt new
tokens, classifiers) and, where a vocabulary was resized, embedding and head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from mergesafe.architecture.pairing import Rule
from mergesafe.architecture.tying import HEADS, embedding_of, head_beside, is_embedding
from mergesafe.checkpoint.format.lora_config import fail
from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.places.location import Location
from mergesafe.dtypes import MERGEABLE
from mergesafe.untrusted import show

_PREFIX: Final = "base_model.model."
#: Segments that PEFT wraps around a module.
_WRAPPERS: Final = (".modules_to_save", ".base_layer")


def whole_name(name: str) -> str | None:
    """The base's name of a tensor that the adapter stores whole; None of any other tensor.

    Beside the module that it trained, PEFT may store it a second time under its own name, and what
    it was before (``original_module``).
    """
    if not name.startswith(_PREFIX) or "lora_" in name:
        return None
    plain = name.removeprefix(_PREFIX)
    for wrapper in _WRAPPERS:
        plain = plain.replace(f"{wrapper}.", ".")
    return plain


def is_former(name: str) -> bool:
    """Whether it is what a module was before it was trained."""
    return ".original_module." in name


def check_once(
    weights: Location, whole: Mapping[str, TensorInfo], adapted: Collection[str]
) -> None:
    """Refuse a whole weight of a module that has factors, unless it is what they are added to.

    PEFT looks for that under ``base_layer`` and leaves out another one without a word.
    """
    for name, info in whole.items():
        if name.removesuffix(".weight") in adapted and ".base_layer." not in info.name:
            fail(
                weights,
                f"tensor {show(info.name)} is whole, and its module has lora_A and lora_B too: "
                "PEFT would leave the tensor out. Save the adapter again.",
            )


def undeclared(config: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Of an adapter's tensors those that stand in place of the base's, though nothing says that
    they were trained: neither ``modules_to_save``, nor that they are embedding or head.
    """
    listed = config.get("modules_to_save") or []
    declared = {str(each).rsplit(".", 1)[-1] for each in listed} if isinstance(listed, list) else ()
    found = []
    for name in names:
        plain = None if is_former(name) else whole_name(name)
        if plain is None or plain in HEADS or is_embedding(plain) or ".base_layer." in name:
            continue
        if not set(plain.split(".")) & set(declared):
            found.append(plain)
    return found


def whole_tensors(
    weights: Location,
    found: Mapping[str, TensorInfo],
    rules: Sequence[Rule],
    base: Checkpoint,
) -> dict[str, TensorInfo]:
    """``found`` by the base's names; ``rules``: how the adapter's names differ otherwise.

    Raises:
        CheckpointError: the base has no such tensor, or one of another shape or kind.
    """
    embedding = embedding_of(base.tensors)
    head = head_beside(embedding, base.tensors, base.config) if embedding is not None else None
    result: dict[str, TensorInfo] = {}
    for name, info in found.items():
        own = _own(name, rules, base)
        of = base.tensors.get(own)
        if of is None and base.tied and embedding is not None and own in (head, *HEADS):
            own, of = head or own, base.tensors[embedding]
        if of is None:
            fail(
                weights,
                f"tensor {show(info.name)} is a whole tensor that the base {base.path} does not "
                "have. Use the base that the adapter was trained on, with the head that it had "
                "then.",
            )
        rows = own in HEADS or is_embedding(own)
        if info.shape[rows:] != of.shape[rows:] or len(info.shape) != len(of.shape):
            fail(
                weights,
                f"tensor {show(info.name)} has shape {list(info.shape)} and stands in place of "
                f"{show(of.name)} of shape {list(of.shape)}. Use the base that the adapter was "
                "trained on.",
            )
        if info.dtype not in MERGEABLE:
            fail(
                weights,
                f"tensor {show(info.name)} is {info.dtype}, expected {' or '.join(MERGEABLE)}. "
                "Convert the adapter.",
            )
        result[own] = info
    return result


def _own(name: str, rules: Sequence[Rule], base: Checkpoint) -> str:
    """The base's name: the same, or with its prefix in place of the adapter's."""
    if name not in base.tensors:
        for rule in rules:  # ``theirs`` is the base's, as the adapter's modules were paired
            other = rule.theirs + name.removeprefix(rule.ours)
            if name.startswith(rule.ours) and other in base.tensors:
                return other
    return name


def untold(config: Mapping[str, Any], found: Mapping[str, TensorInfo]) -> list[str]:
    """A warning for each of ``modules_to_save`` of which the file holds nothing."""
    listed = config.get("modules_to_save") or []
    names = [str(each) for each in listed] if isinstance(listed, list) else [str(listed)]
    held = {part for name in found for part in name.split(".")}
    return [
        f"modules_to_save lists {show(name)}, of which the adapter holds no tensor"
        for name in names if name.rsplit(".", 1)[-1] not in held
    ]  # fmt: skip


def in_place(
    base: Checkpoint, whole: Mapping[str, TensorInfo], *, trains_tied: bool
) -> tuple[dict[str, TensorInfo], str | None]:
    """The base's tensors with those of the adapter in their places, and a warning.

    A head that the base ties to an embedding which the adapter replaces stays what it was: PEFT
    gives the embedding a copy of its own, unless ``trains_tied`` (``ensure_weight_tying``).

    Raises:
        CheckpointError: embedding and head have other numbers of rows.
    """
    tensors = {**base.tensors, **whole}
    embedding = embedding_of(base.tensors)
    if embedding is None or embedding not in whole:
        return tensors, None
    head = next((name for name in tensors if name in HEADS), None)
    was, now = base.tensors[embedding], whole[embedding]
    if head is not None and tensors[head].shape[0] != now.shape[0]:
        fail(
            now.path,
            f"tensor {show(now.name)} has {now.shape[0]} rows, and the head {show(head)} of "
            f"{base.path} {tensors[head].shape[0]}. Save the adapter with its head too "
            "(modules_to_save: [embed_tokens, lm_head]).",
        )
    if head is not None or not base.tied or trains_tied:
        return tensors, None
    if was.shape != now.shape:
        return tensors, (
            f"{now.path}: the embedding is the adapter's own, with another number of rows, and is "
            f"taken as the head too, which {base.path} ties to it"
        )
    tensors[head_beside(embedding, base.tensors, base.config)] = was
    return tensors, (
        f"{now.path}: the embedding is the adapter's own, and the head that {base.path} ties to "
        "its embedding stays as it was, as PEFT runs it: the model has a head of its own"
    )
