"""What ``mergesafe diff`` prints with ``--json``, kind ``diff``.

Values of elements are compared as float32 numbers, those of tensors with scales or an adapter as
what a merge would read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mergesafe.results.numbers import Count, Number

#: In what two tensors of one name differ: ``bytes`` where shape and type are the same.
Aspect = Literal["shape", "dtype", "bytes"]


class TensorHeader(msgspec.Struct, frozen=True):
    """A tensor as the header of its file has it; ``dtype`` by safetensors' names."""

    name: str
    dtype: str
    shape: list[Count]


class Measures(msgspec.Struct, frozen=True):
    """How far b is from a, over ``elements`` elements: of an embedding or a head with another
    number of rows those of tokens that both models have.

    changed: elements whose value differs (−0 is 0); None where shapes differ otherwise.
    largest: max |b − a|. l2: ‖b − a‖. relative: ‖b − a‖ / ‖a‖; None where a is zero. These three
    are None, too, for types that have no float32 value, where a or b holds NaN or infinity, and
    beyond 1e30.
    """

    elements: Count
    changed: Count | None
    largest: Number | None
    l2: Number | None
    relative: Number | None

    @property
    def share(self) -> float | None:
        """The share of the elements whose value differs."""
        return None if self.changed is None or not self.elements else self.changed / self.elements


class TensorDiff(msgspec.Struct, frozen=True):
    """A tensor that both models have and that is not the same in both.

    ``b``: its header there, where prefixes or spellings of names may differ. ``nonfinite``: which
    of them holds NaN or infinity.
    """

    layer: str
    group: str
    differs: list[Aspect]
    a: TensorHeader
    b: TensorHeader
    measures: Measures
    nonfinite: list[Literal["a", "b"]]


class PartDiff(msgspec.Struct, frozen=True):
    """The tensors of a layer, or of a group, that both models have.

    ``measures``: over all of them that are compared; its ``relative`` over those that differ.
    """

    name: str
    tensors: Count
    different: Count
    measures: Measures


class SettingDiff(msgspec.Struct, frozen=True):
    """A setting and its two values as text; None: absent."""

    key: str
    a: str | None
    b: str | None


class TokenizerDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Vocabularies compared token by token, as a merge compares them.

    ``same``: whether every token has the same id; None where they could not be compared, with the
    reason in ``why``. moved: tokens with another id. renamed: ids with another token. only_a,
    only_b: tokens of one alone. ``examples``: some of them, in words. ``special``: special tokens.
    """

    same: bool | None
    why: str | None = None
    moved: Count = 0
    renamed: Count = 0
    only_a: Count = 0
    only_b: Count = 0
    examples: list[str] = []
    special: list[SettingDiff] = []


class FileDiff(msgspec.Struct, frozen=True):
    """A file beside the weights that is not the same in both."""

    name: str
    differs: Literal["bytes", "only in a", "only in b"]


class Diff(msgspec.Struct, frozen=True, tag_field="kind", tag="diff", kw_only=True):
    """What differs between two checkpoints.

    ``same``: whether nothing does. ``tensors``: how many both have; ``different``: those of them
    that differ. ``config``: settings that mean something else; ``generation``, ``adapter``: of
    generation_config.json and adapter_config.json, key by key. ``chat_template``: as transformers
    would take it. ``files``: other files that a merge would carry over.
    """

    a: str
    b: str
    same: bool
    tensors: Count
    only_a: list[TensorHeader]
    only_b: list[TensorHeader]
    different: list[TensorDiff]
    overall: Measures
    layers: list[PartDiff]
    groups: list[PartDiff]
    config: list[SettingDiff]
    tokenizer: TokenizerDiff
    chat_template: Literal["same", "different", "only in a", "only in b", "none"]
    generation: list[SettingDiff]
    adapter: list[SettingDiff]
    files: list[FileDiff]
    notes: list[str]

    def __post_init__(self) -> None:
        if len(self.different) > self.tensors:
            raise ValueError("'different' lists more tensors than 'tensors' counts")
        if self.same == differs(msgspec.structs.asdict(self)):
            raise ValueError("'same' contradicts the differences that are listed")


def differs(found: Mapping[str, Any]) -> bool:
    """Whether anything is listed among the fields of a :class:`Diff` that differs."""
    listed = ("only_a", "only_b", "different", "config", "generation", "adapter", "files")
    tokenizer: TokenizerDiff = found["tokenizer"]
    return (
        any(found[name] for name in listed)
        or bool(tokenizer.special)
        or tokenizer.same is False
        or found["chat_template"] not in ("same", "none")
    )
