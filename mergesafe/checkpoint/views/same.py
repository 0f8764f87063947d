"""Whether two views give the same elements because they read the same bytes in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from mergesafe.checkpoint.format.compare import same_bytes
from mergesafe.checkpoint.format.safetensors import TensorInfo
from mergesafe.checkpoint.views.view import View


def same_elements(ones: Sequence[View], others: Sequence[View]) -> bool:
    """Whether each view is made as its partner is, of stored tensors with the same bytes.

    The tensors may lie in other files: in a copy of a folder, for example. False says nothing:
    views that are made otherwise may have equal elements. Reads as :func:`same_bytes` does.

    Raises:
        CheckpointError: a tensor cannot be read.
    """
    read: list[TensorInfo] = []

    def note(info: TensorInfo) -> TensorInfo:
        read.append(info)
        return info

    for view in ones:
        view.moved(note)

    def partner(info: TensorInfo) -> TensorInfo:
        if info in read:
            return info
        return next((each for each in read if same_bytes(each, info)), info)

    return [view.moved(partner) for view in others] == list(ones)
