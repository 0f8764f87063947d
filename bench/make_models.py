"""Random Llama-like checkpoints for benchmarks: a base and experts a small delta away.

``python -m bench.make_models FOLDER`` writes ``base`` and ``expert1..3``: bfloat16, 0.55 G
parameters and four shards each unless asked otherwise. Values are a function of the seed alone.
Tensors are made and written in pieces, so that memory stays small whatever the size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

#: Standard deviations of the base's weights and of what fine-tuning adds to them.
BASE_STD, DELTA_STD = 0.02, 0.001
PIECE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama-like model."""

    layers: int = 18
    hidden: int = 1536
    intermediate: int = 4096
    heads: int = 12
    kv_heads: int = 4
    vocabulary: int = 32000
    tied: bool = False

    def tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of the layers."""
        h, i, kv = self.hidden, self.intermediate, self.hidden * self.kv_heads // self.heads
        found: list[tuple[str, tuple[int, ...]]] = [
            ("model.embed_tokens.weight", (self.vocabulary, h))
        ]
        for n in range(self.layers):
            layer = f"model.layers.{n}."
            found += [
                (layer + "input_layernorm.weight", (h,)),
                (layer + "self_attn.q_proj.weight", (h, h)),
                (layer + "self_attn.k_proj.weight", (kv, h)),
                (layer + "self_attn.v_proj.weight", (kv, h)),
                (layer + "self_attn.o_proj.weight", (h, h)),
                (layer + "post_attention_layernorm.weight", (h,)),
                (layer + "mlp.gate_proj.weight", (i, h)),
                (layer + "mlp.up_proj.weight", (i, h)),
                (layer + "mlp.down_proj.weight", (h, i)),
            ]
        found.append(("model.norm.weight", (h,)))
        if not self.tied:
            found.append(("lm_head.weight", (self.vocabulary, h)))
        return found

    def config(self) -> str:
        return json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "model_type": "llama",
                "hidden_act": "silu",
                "hidden_size": self.hidden,
                "intermediate_size": self.intermediate,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "vocab_size": self.vocabulary,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-5,
                "tie_word_embeddings": self.tied,
                "torch_dtype": "bfloat16",
            },
            indent=2,
        )


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Bits of finite float32 values rounded to bfloat16, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pieces(
    index: int, elements: int, norm: bool, seed: int, experts: int
) -> Iterator[list[np.ndarray]]:
    """Bits of the base's and every expert's tensor number ``index``, piece by piece."""
    streams = [np.random.default_rng([seed, index, model]) for model in range(experts + 1)]
    centre = np.float32(1.0 if norm else 0.0)
    for begin in range(0, elements, PIECE):
        count = min(PIECE, elements - begin)
        drawn = [stream.standard_normal(count, dtype=np.float32) for stream in streams]
        base = to_bf16(drawn[0] * np.float32(BASE_STD) + centre)
        exact = from_bf16(base)
        deltas = (to_bf16(exact + noise * np.float32(DELTA_STD)) for noise in drawn[1:])
        yield [base, *deltas]


def split(tensors: list[tuple[str, tuple[int, ...]]], shards: int) -> list[list[int]]:
    """Numbers of the tensors of each shard: consecutive, of about the same size."""
    total = sum(int(np.prod(shape)) for _, shape in tensors)
    groups: list[list[int]] = [[] for _ in range(shards)]
    done = 0
    for index, (_, shape) in enumerate(tensors):
        groups[min(shards - 1, done * shards // total)].append(index)
        done += int(np.prod(shape))
    return groups


def header(tensors: list[tuple[str, tuple[int, ...]]], group: list[int]) -> bytes:
    """The safetensors header of one shard."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for index in group:
        name, shape = tensors[index]
        end = at + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def make_models(folder: Path, shape: Shape, *, experts: int, shards: int, seed: int) -> list[Path]:
    """Write the checkpoints; the base's folder is the first of the answer."""
    names = ["base", *(f"expert{i + 1}" for i in range(experts))]
    models = [folder / name for name in names]
    tensors = shape.tensors()
    groups = split(tensors, shards)
    files = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    total = 2 * sum(int(np.prod(size)) for _, size in tensors)
    where = {tensors[i][0]: file for file, group in zip(files, groups, strict=True) for i in group}
    index = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1)
    for model in models:
        model.mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text(shape.config())
        (model / "model.safetensors.index.json").write_text(index)
    for file, group in zip(files, groups, strict=True):
        with ExitStack() as stack:
            outs: list[BinaryIO] = [stack.enter_context(open(m / file, "wb")) for m in models]
            for out in outs:
                out.write(header(tensors, group))
            for number in group:
                name, size = tensors[number]
                norm = "norm" in name
                for bits in pieces(number, int(np.prod(size)), norm, seed, experts):
                    for out, piece in zip(outs, bits, strict=True):
                        out.write(piece.tobytes())
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--hidden", type=int, default=Shape.hidden)
    parser.add_argument("--intermediate", type=int, default=Shape.intermediate)
    parser.add_argument("--vocabulary", type=int, default=Shape.vocabulary)
    parser.add_argument("--tied", action="store_true", help="no separate output embedding")
    args = parser.parse_args()
    shape = Shape(
        layers=args.layers, hidden=args.hidden, intermediate=args.intermediate,
        vocabulary=args.vocabulary, tied=args.tied,
    )  # fmt: skip
    models = make_models(
        args.folder, shape, experts=args.experts, shards=args.shards, seed=args.seed
    )
    parameters = sum(int(np.prod(size)) for _, size in shape.tensors())
    print(f"{len(models)} checkpoints of {parameters / 1e6:.0f} M parameters in {args.folder}")


if __name__ == "__main__":
    main()
