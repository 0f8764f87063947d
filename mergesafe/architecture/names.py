"""What the name of a tensor says: wrappers around it, buffers, layers, parts of a larger model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mergesafe.errors import CheckpointError

#: Segments that training wraps around modules (torch.compile, FSDP, activation checkpointing).
#: A model that is loaded elsewhere does not have them.
WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
#: DataParallel and DeepSpeed, and PEFT, put these in front of every name; elsewhere a module may
#: bear them.
LEADING_WRAPPERS: Final = ("module", "base_model.model")

#: A larger number is no layer: lists with a value for each layer are made.
_STACK: Final = r"^(.*?(?:^|\.)(?:layers|h|blocks|block|layer))"
_LAYER: Final = re.compile(rf"{_STACK}\.([0-9]{{1,5}})\.")
_LAYERS: Final = re.compile(rf"{_STACK}\.([0-9]{{1,5}}(?:-[0-9]{{1,5}})?)(?:\.(.+))?$")
#: Tensors that a model computes itself, stored by some versions of a library and not by others.
_RECOMPUTED: Final = re.compile(
    r"(?:^|\.)(?:inv_freq|masked_bias|position_ids|token_type_ids|relative_position_index|causal_mask"
    r"|rotary_emb\.(?:cos|sin)_cached)$"
)
#: In GPT-2 and GPT-NeoX the causal mask bears the name of a bias; a bias has one dimension.
_MASK: Final = re.compile(r"(?:^|\.)(?:attn|attention)\.(?:bias|mask)$")
#: How many batches a normalisation has seen: a count, of which no mean makes sense.
_COUNTER: Final = re.compile(r"(?:^|\.)(?:num_batches_tracked|n_averaged)$")
#: Parts of a larger model that a text model lacks.
_TOWER: Final = re.compile(
    r"^(?:model\.)?(?:visual|vision[a-z_]*|image[a-z_]*|audio[a-z_]*|speech[a-z_]*|video[a-z_]*"
    r"|multi_modal[a-z_]*|multimodal[a-z_]*|mm_[a-z_]*|embed_vision|embed_audio|connector"
    r"|talker|token2wav|code2wav|qformer|perceiver[a-z_]*)\."
)
#: Layers that predict further tokens (MTP, next-n): training keeps or drops them as it likes.
_EXTRA_LAYERS: Final = re.compile(r"^(?:model\.)?(?:mtp|mtp_layers|nextn[a-z_]*|eagle[a-z_]*)\.")
#: Heads of tasks on a backbone: of classes, spans and answers, poolers, and what fills gaps. Their
#: first segment, or the second of a pooler that lies within the backbone (``bert.pooler.``).
_TASK_HEAD: Final = re.compile(
    r"^(?:score|scores|classifier|pre_classifier|classification_head|qa_outputs|qa_classifier"
    r"|sequence_summary|logits_proj|answer_class|value_head|v_head|reward_head|regression_head"
    r"|cls\.[a-z_]+|lm_head|embed_out|predictions|generator_predictions|generator_lm_head"
    r"|discriminator_predictions|vocab_transform|vocab_layer_norm|vocab_projector|lm_loss|head"
    r"|(?:[a-z][a-z0-9_]*\.)?pooler)(?=\.)"
)
#: Architectures whose linear layers are transformers' Conv1D: their weights are [in, out].
_CONV1D_MODELS: Final = frozenset(
    ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "gpt-sw3", "clvp", "clvp_decoder")
)
_CONV1D: Final = re.compile(r"(?:^|\.)(?:c_attn|c_proj|c_fc|q_attn)$")
#: Another spelling of the same tensor: (ending, ending).
RENAMES: Final = (
    ("LayerNorm.gamma", "LayerNorm.weight"),
    ("LayerNorm.beta", "LayerNorm.bias"),
    ("embed_out.weight", "lm_head.weight"),  # GPT-NeoX in transformers 5
    # Routers of Mixtral and Phi-MoE, where transformers 5 keeps experts in one tensor.
    ("block_sparse_moe.gate.weight", "mlp.router.weight"),
    ("mlp.gate.weight", "mlp.router.weight"),
    ("block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias"),
    ("mlp.moe_statics.e_score_correction_bias", "mlp.gate.moe_statics.e_score_correction_bias"),
    ("weight_g", "parametrizations.weight.original0"),
    ("weight_v", "parametrizations.weight.original1"),
)


def unwrap(
    names: Iterable[str], where: object, *, leading_wrappers: Sequence[str] = LEADING_WRAPPERS
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Name without wrappers -> name as stored, in order, and the wrappers that were found.

    Raises:
        CheckpointError: two tensors of ``where`` have one name once the wrappers are gone.
    """
    stored = list(names)
    leading = ""
    for wrapper in leading_wrappers:
        if stored and all(name.startswith(f"{leading}{wrapper}.") for name in stored):
            leading += f"{wrapper}."
    found = [wrapper for wrapper in leading_wrappers if f"{wrapper}." in leading]
    result: dict[str, str] = {}
    for name in stored:
        plain = name.removeprefix(leading)
        if "_orig_mod" in plain or "_wrapped_module" in plain:  # rare: spares splitting every name
            parts = plain.split(".")
            found += [part for part in parts if part in WRAPPERS]
            plain = ".".join(part for part in parts if part not in WRAPPERS)
        if plain in result:
            raise CheckpointError(
                f"{where}: tensors '{result[plain]}' and '{name}' are both '{plain}' without the "
                "wrapper that training put around the model. Save the unwrapped model again."
            )
        result[plain] = name
    return result, tuple(dict.fromkeys(found))


def is_recomputed(name: str, shape: Sequence[int]) -> bool:
    """Whether a model computes this tensor itself: rotary frequencies, positions, causal masks."""
    if _RECOMPUTED.search(name):
        return True
    return len(shape) >= 2 and shape[-1] == shape[-2] and _MASK.search(name) is not None


def is_counter(name: str) -> bool:
    """Whether the tensor counts something, such as the batches that a normalisation has seen."""
    return _COUNTER.search(name) is not None


def is_tower(name: str) -> bool:
    """Whether the tensor belongs to the vision, audio or similar part of a larger model."""
    return _TOWER.match(name) is not None


def task_head(name: str) -> str | None:
    """The head of a task that the tensor belongs to: ``classifier``, ``bert.pooler``, ``lm_head``.

    None of any other tensor. A pooler of a vision tower is part of the tower.
    """
    match = _TASK_HEAD.match(name)
    return None if match is None or is_tower(name) else match[0]


def is_transposed(module: str, model_type: object) -> bool:
    """Whether the module's weight is stored [in, out]."""
    return str(model_type) in _CONV1D_MODELS and _CONV1D.search(module) is not None


def layer_of(name: str) -> tuple[str, int] | None:
    """The stack of layers that a tensor belongs to, and its layer; None outside any stack."""
    match = _LAYER.match(name)
    return (match[1], int(match[2])) if match else None


def group_of(name: str) -> tuple[str, str, str] | None:
    """Stack, layers and rest of the name of a tensor, a layer or a block of layers.

    ``model.layers.0-3`` is ``("model.layers", "0-3", "")``, and ``model.layers.3.mlp.up.weight`` is
    ``("model.layers", "3", "mlp.up.weight")``. None outside any stack.
    """
    match = _LAYERS.match(name)
    return (match[1], match[2], match[3] or "") if match else None


def place_of(name: str) -> tuple[int, str, int]:
    """A key that sorts tensors as a forward pass meets them.

    Embeddings first, then the layers in order, then what comes after them, the head last.
    """
    layer = layer_of(name)
    if layer is not None:
        return 1, *layer
    if any(part in name for part in ("embed", "wte", "wpe")):
        return 0, "", 0
    return (3 if "head" in name else 2), "", 0


def is_extra_layer(name: str, config: Mapping[str, object]) -> bool:
    """Whether the tensor predicts further tokens: beyond the layers that ``config`` counts."""
    if _EXTRA_LAYERS.match(name):
        return True
    layer = layer_of(name)
    inner = config.get("text_config")
    count = (inner if isinstance(inner, Mapping) else config).get("num_hidden_layers")
    return (
        layer is not None
        and isinstance(count, int)
        and layer[1] >= count > 0
        and layer[0] in ("model.layers", "model.language_model.layers", "layers")
    )


def stem_of(name: str) -> str:
    """The first segments of a name, which many tensors of a part of the model share."""
    parts = name.split(".")
    count = 2 if parts[0] == "model" else 1
    if len(parts) > count + 1 and parts[count].isdigit():
        count += 1
    return ".".join(parts[:count])


def layer_positions(names: Iterable[str]) -> dict[str, float]:
    """t in [0, 1] of every tensor in its stack of layers, for gradients of parameters.

    Layer i of n has t = i / (n - 1), the only layer of one t = 1; a tensor outside any stack
    t = 0. Each stack (``model.layers``, ``vision.blocks``) counts its own layers.
    """
    layers: dict[str, tuple[str, int]] = {}
    depth: dict[str, int] = {}
    positions: dict[str, float] = {}
    for name in names:
        positions[name] = 0.0
        layer = layer_of(name)
        if layer is not None:
            stack, index = layers[name] = layer
            depth[stack] = max(depth.get(stack, 0), index + 1)
    for name, (stack, index) in layers.items():
        positions[name] = index / (depth[stack] - 1) if depth[stack] > 1 else 1.0
    return positions
