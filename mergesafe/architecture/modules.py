"""The parts that a model of several is made of, by mergekit's names for them.

``text_decoder``, ``vision_tower`` and ``multi_modal_projector`` of models that see; other towers by
their own names (``vision_model``, ``audio_tower``); ``encoder``, ``decoder`` and ``shared`` of an
encoder-decoder; ``default`` of a model that is one part.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from mergesafe.architecture.depth import COUNTS, HALVES
from mergesafe.architecture.names import is_tower

DEFAULT: Final = "default"
TEXT: Final = "text_decoder"
_VISION: Final = "vision_tower"
_PROJECTOR: Final = "multi_modal_projector"
_SHARED: Final = "shared"
_HALVES: Final = ("encoder", "decoder")
#: Names that no recipe gives to a model as a whole.
NAMES: Final = frozenset((TEXT, _VISION, "vision_model", _PROJECTOR, _SHARED, *_HALVES))
#: Qwen's projector, which lies within the vision tower.
_MERGER: Final = re.compile(r"^visual\.(?:merger|deepstack_merger_list)\.")


def modules_of(names: Collection[str]) -> dict[str, str]:
    """The module of every tensor of a model, whose tensors are ``names``."""
    plain = {name: name.removeprefix("model.") for name in names}
    firsts = {each.partition(".")[0] for each in plain.values()}
    if firsts.issuperset(_HALVES):
        rest = _SHARED if _SHARED in firsts else "decoder"
        return {
            name: first if (first := each.partition(".")[0]) in _HALVES else rest
            for name, each in plain.items()
        }
    if not any(map(is_tower, names)):
        return dict.fromkeys(names, DEFAULT)
    return {name: _of_tower(each) if is_tower(name) else TEXT for name, each in plain.items()}


def _of_tower(name: str) -> str:
    if _MERGER.match(name):
        return _PROJECTOR
    first = name.partition(".")[0]
    return _VISION if first == "visual" else first


def with_depth_of_encoder(
    module: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """``after``, the configuration for other layers of one module than ``before`` describes.

    What an encoder-decoder calls the number of its layers is that of the encoder, where the decoder
    has a key of its own: it stays where the decoder gets other layers.
    """
    if module != "decoder" or not any(key in before for key in HALVES[module]):
        return dict(after)
    return {**after, **{key: before[key] for key in COUNTS if key in before}}
