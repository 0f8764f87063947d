"""Files of a checkpoint that nobody misses in a merged model; whatever else stays behind is named.

The list is by kind: weights in other formats, traces of training, code (which is never copied),
descriptions and pictures, and what mergesafe or mergekit wrote about an earlier merge.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

#: Files that are known to be of no use beside merged weights.
_FILES: Final = (
    # The weights of other formats, and of this one.
    r"(?:pytorch_model|tf_model|flax_model|rust_model|consolidated|adapter_model|openvino_\w+).*",
    r"model(?:[-.][\w.-]+)?\.safetensors", r".*\.index\.json", r"adapter_config\.json",
    r".*\.(?:gguf|ggml|onnx|onnx_data|h5|msgpack|tflite|mlmodel|ot)", r"params\.json",
    r"quantiz(?:e|ation)_config\.json", r"quant_config\.json",
    # Traces of training.
    r"training_args\.(?:bin|json|yaml)", r"(?:optimizer|scheduler|scaler|rng_state).*",
    r"trainer_state\.json", r"(?:\w+_)?results\.json", r"events\.out\.tfevents.*", r"latest",
    r".*\.log",
    # Code: never copied; code that config.json names has a warning of its own.
    r".*\.(?:py|pyc|ipynb|sh|bat)", r"requirements.*\.txt",
    # Descriptions and pictures.
    r"modelcard\.json", r".*\.(?:md|rst|pdf|html|png|jpe?g|gif|svg|webp|bib)", r"CITATION.*",
    # Of an earlier merge, which the output's own replace.
    r"mergesafe-.*", r"mergesafe_demo_base\.json", r"mergekit_config\.ya?ml",
    # Hidden files: version control, caches.
    r"\..*",
)  # fmt: skip
#: Folders likewise.
_FOLDERS: Final = (
    r"original", r"onnx", r"openvino", r"coreml", r"mlx", r"gguf", r"tflite", r"runs", r"logs",
    r"wandb", r"tensorboard", r"checkpoint-\d+", r"global_step\d+", r"assets", r"images",
    r"figures", r"img", r"evals?", r"eval_results", r"__pycache__", r"\..*",
)  # fmt: skip
_USELESS: Final = re.compile(
    "|".join(f"(?:{each})" for each in (*_FILES, *_FOLDERS)), re.IGNORECASE
)


def unexpected(names: Iterable[str], carried: Collection[str]) -> list[str]:
    """Of ``names`` in a checkpoint's folder those that are neither carried nor known to be useless.

    ``carried``: names in the output, those in a subfolder with its name in front.
    """
    kept = {name.partition("/")[0] for name in carried}
    return sorted(name for name in names if name not in kept and not _USELESS.fullmatch(name))
