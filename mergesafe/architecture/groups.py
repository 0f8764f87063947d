"""What a tensor does in its layer, by its name: the groups that tables sum tensors up by.

``attention.q``, ``.k``, ``.v``, ``.qkv`` (several in one tensor) and ``.o``; ``mlp.gate``, ``.up``,
``.gate_up`` and ``.down``; ``router`` and ``experts`` of a mixture; ``norm``, ``final norm``,
``embedding``, ``head``; ``tower`` (the vision or audio part of a larger model); ``other``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mergesafe.architecture.names import is_tower, layer_of
from mergesafe.architecture.tying import HEADS, is_embedding

#: In the order in which tables list them.
GROUPS: Final = (
    "embedding", "attention.q", "attention.k", "attention.v", "attention.qkv", "attention.o",
    "mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down", "router", "experts", "norm", "final norm",
    "head", "tower", "other",
)  # fmt: skip

_ATTENTION: Final = re.compile(r"attn|attention", re.IGNORECASE)
_NORM: Final = re.compile(r"norm|^ln(?:_|\d|$)", re.IGNORECASE)
_EMBEDDING: Final = re.compile(r"embed|^w[tp]e$")
_ROUTER: Final = re.compile(
    r"(?:^|\.)(?:router|gate|shared_expert_gate)(?:\.|$)|e_score_correction_bias$"
)
_EXPERTS: Final = re.compile(r"(?:^|\.)experts(?:\.|$)")
_HEAD: Final = frozenset(("lm_head", "embed_out", "score", "classifier", "v_head", "head"))
#: Heads of several layers: RoBERTa's, BERT's.
_HEADS: Final = re.compile(r"^(?:lm_head|cls|classifier|pred_head)\.")
#: Last segment of a module's name -> group; attention first, since some names are in both.
_IN_ATTENTION: Final = {
    "attention.q": ("q", "q_proj", "query", "wq", "q_lin", "q_a_proj", "q_b_proj", "to_q"),
    "attention.k": ("k", "k_proj", "key", "wk", "k_lin", "to_k"),
    "attention.v": ("v", "v_proj", "value", "wv", "v_lin", "to_v"),
    "attention.qkv": (
        "qkv", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "kv_a_proj_with_mqa", "kv_b_proj",
        "in_proj",
    ),
    "attention.o": ("o", "o_proj", "out_proj", "out_lin", "c_proj", "dense", "wo", "Wo"),
}  # fmt: skip
_IN_MLP: Final = {
    "mlp.gate": ("gate_proj", "w1", "wi_0"),
    "mlp.up": (
        "up_proj", "w3", "c_fc", "fc1", "fc_in", "wi", "wi_1", "dense_h_to_4h", "lin1", "Wi",
    ),
    "mlp.gate_up": ("gate_up_proj",),
    "mlp.down": (
        "down_proj", "w2", "c_proj", "fc2", "fc_out", "wo", "dense_4h_to_h", "lin2", "Wo",
    ),
}  # fmt: skip
_ATTENTION_GROUP: Final = {module: g for g, names in _IN_ATTENTION.items() for module in names}
_MLP_GROUP: Final = {module: g for g, names in _IN_MLP.items() for module in names}
#: These are attention wherever they stand.
_PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
_LEAF: Final = re.compile(r"\.(?:weight|bias|[a-z_]*scale[a-z_]*)$")


def tensor_group(name: str) -> str:
    """The group of :data:`GROUPS` that a tensor of this name belongs to."""
    path = _LEAF.sub("", name)
    parent, _, module = path.rpartition(".")
    if name in HEADS or (layer_of(name) is None and (module in _HEAD or _HEADS.match(name))):
        return "head"
    if is_tower(name):
        return "tower"
    if is_embedding(name) or (layer_of(name) is None and _EMBEDDING.search(module)):
        return "embedding"
    if _NORM.search(module):
        return "norm" if layer_of(name) else "final norm"
    if _EXPERTS.search(path):
        return "experts"
    if _ROUTER.search(path):
        return "router"
    inside = _ATTENTION_GROUP if _ATTENTION.search(parent) else _MLP_GROUP
    if module in inside:
        return inside[module]
    # BERT: attention.self.query, attention.output.dense, intermediate.dense, output.dense
    if module == "dense":
        return {"intermediate": "mlp.up", "output": "mlp.down"}.get(
            parent.rpartition(".")[2], "other"
        )
    return _ATTENTION_GROUP[module] if module in _PROJECTIONS else "other"


def in_order(groups: Iterable[str]) -> list[str]:
    """Groups, each once, in the order of :data:`GROUPS`."""
    return sorted(set(groups), key=GROUPS.index)


def in_words(groups: Iterable[str]) -> str:
    """Several groups in one phrase: ``attention q k v o, mlp gate up down, norm``."""
    phrases: dict[str, list[str]] = {}
    for group in in_order(groups):
        part, _, kind = group.partition(".")
        phrases.setdefault(part, []).extend([kind] if kind else [])
    return ", ".join(" ".join([part, *kinds]) for part, kinds in phrases.items())
