"""Can a model run here: are the packages there, and the device?"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from mergesafe.errors import ModelError
from mergesafe.extras import install

_NEEDED: Final = ("torch", "transformers", "safetensors", "accelerate")


def check_device(device: str, owner: str) -> None:
    """Refuse a device on which nothing can be computed; ``owner``: what is to run there.

    Raises:
        ModelError: torch cannot use it here.
    """
    if device == "auto":
        return
    require()
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"{owner}: the device {device!r} cannot be used here "
            f"({' '.join(str(error).split())[:200]}); expected auto, cpu, cuda or cuda:N"
        ) from None


def require() -> None:
    """Refuse to run a model where a package is missing.

    Raises:
        ModelError: it names what is missing, and how to install it.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"running a model needs {', '.join(missing)}. Install what is missing: "
            f"{install('models')}"
        )
