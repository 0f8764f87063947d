"""Where the training of an aligner is, in one file beside the output, for ``--resume``.

A safetensors file: the weights that are trained, the moments of AdamW, the weights of the best
epoch and the states of the random generators, all as they are in memory, so that a run that goes on
from it gives the bytes of one that nothing interrupted. Its metadata hold the place in the data,
and what the training depends on: another training is not resumed from it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import OutputError
from mergesafe.private import close, folder_of, open_own_file
from mergesafe.strict_json import parse_json
from mergesafe.whole_file import write_whole

#: Seconds between two states within an epoch; each epoch ends with one.
SECONDS: Final = 120.0
_STEP: Final = "step"


@dataclass
class State:
    """``step``: how many were taken. ``total``: the loss of this epoch's examples so far, summed.
    ``before``: the held-out loss before training; ``best``: the least since, None before the end of
    the first epoch, and ``best_weights`` those of its epoch.
    """

    before: float
    step: int = 0
    total: float = 0.0
    best: float | None = None
    best_weights: dict[str, Any] = field(default_factory=dict)


class Unfinished:
    """The file of the aligner that is to be at ``out``.

    ``subject``: what the training depends on, plain data by what each is called in messages.
    """

    def __init__(self, out: Path, subject: dict[str, Any]) -> None:
        self.path = out.parent / f".{out.name}.mergesafe-aligner"
        self.out = out
        self._subject = subject
        self._saved = time.monotonic()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse to begin anew what an earlier run left, unless that is asked for.

        Raises:
            OutputError: there is such a run and neither option is set, or it cannot be removed.
        """
        if not os.path.lexists(self.path) or resume:
            return
        if not overwrite:
            raise OutputError(
                f"{self.out}: an earlier run did not finish; go on from where it was with "
                "--resume, or start anew with --overwrite"
            )
        self.remove()

    @property
    def due(self) -> bool:
        """Whether the last state is older than ``SECONDS``."""
        return time.monotonic() - self._saved >= SECONDS

    def save(self, state: State, weights: dict[str, Any], optimizer: Any) -> None:
        """Replace the file.

        Raises:
            OutputError: it cannot be written.
        """
        import torch
        from safetensors.torch import save

        tensors = {f"weight {name}": each.data for name, each in weights.items()}
        tensors |= {f"best {name}": each for name, each in state.best_weights.items()}
        for number, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer {number} {key}": each for key, each in moments.items()}
        tensors["random"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random cuda"] = torch.cuda.get_rng_state()
        numbers = {
            _STEP: state.step, "total": state.total, "before": state.before, "best": state.best,
            "subject": self._subject,
        }  # fmt: skip
        data = save(
            {name: each.detach().cpu().contiguous() for name, each in tensors.items()},
            {"mergesafe": json.dumps(numbers)},
        )
        write_whole(self.path, data, "The aligner so far is in memory alone")
        self._saved = time.monotonic()

    def load(self, weights: dict[str, Any], optimizer: Any) -> State | None:
        """What an earlier run left, put into ``weights`` and ``optimizer``; None without one.

        Raises:
            OutputError: it is another training's, or is damaged.
        """
        if not os.path.lexists(self.path):
            return None
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = self._content()
            numbers = parse_json(_metadata(data)["mergesafe"].encode(), constants=True)
            self._check_subject(dict(numbers.pop("subject")))
            _check_numbers(numbers)
            tensors = load(data)
            with torch.no_grad():
                for name, each in weights.items():
                    each.data.copy_(tensors[f"weight {name}"])
            optimizer.load_state_dict(
                {**optimizer.state_dict(), "state": _moments(tensors, list(weights.values()))}
            )
            torch.set_rng_state(tensors["random"])
            if "random cuda" in tensors and torch.cuda.is_available():
                torch.cuda.set_rng_state(tensors["random cuda"])
            best = {
                name: tensors[f"best {name}"].to(each.device)
                for name, each in weights.items()
                if numbers["best"] is not None
            }
            return State(**numbers, best_weights=best)
        except OSError as error:
            raise self._refusal(f"it cannot be read ({error.strerror})") from None
        except (
            SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError,
            RuntimeError,
        ) as error:  # fmt: skip
            raise self._refusal(f"it is damaged ({type(error).__name__}: {error})") from None

    def remove(self) -> None:
        """The training is over, or is not gone on with.

        Raises:
            OutputError: it cannot be removed.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be removed ({error.strerror})") from None

    def _content(self) -> bytes:
        with folder_of(self.path) as folder:
            descriptor = open_own_file(self.path.name, os.O_RDONLY, folder)
            try:
                with open(descriptor, "rb", closefd=False) as file:
                    return file.read()
            finally:
                close(descriptor)

    def _check_subject(self, found: dict[str, Any]) -> None:
        other = [name for name, value in self._subject.items() if found.get(name) != value]
        if other:
            raise self._refusal(f"that run had another {' and another '.join(other)}")

    def _refusal(self, why: str) -> OutputError:
        return OutputError(
            f"{self.path}: the unfinished training cannot be resumed: {why}. Restore what was "
            "changed, or start anew with --overwrite in place of --resume"
        )


def _metadata(data: bytes) -> dict[str, str]:
    """Of a safetensors file: its first 8 bytes are the length of a JSON object, which follows."""
    length = int.from_bytes(data[:8], "little")
    found: dict[str, str] = parse_json(data[8 : 8 + length])["__metadata__"]
    return found


def _check_numbers(numbers: dict[str, Any]) -> None:
    """Refuse what no run writes: a place that is none, or losses that are no numbers."""
    step = numbers[_STEP]
    if type(step) is not int or step < 0:
        raise ValueError(f"{_STEP} is {step!r:.40}")
    for name in ("total", "before", "best"):
        value = numbers[name]
        if not isinstance(value, float) and (name != "best" or value is not None):
            raise ValueError(f"{name} is {value!r:.40}")


def _moments(tensors: dict[str, Any], weights: list[Any]) -> dict[int, dict[str, Any]]:
    """The state of the optimizer, by the number of the weight."""
    found: dict[int, dict[str, Any]] = {number: {} for number in range(len(weights))}
    for name, each in tensors.items():
        if name.startswith("optimizer "):
            _, number, key = name.split(" ")
            if each.ndim and each.shape != weights[int(number)].shape:
                raise ValueError(f"{name!r} has the shape {list(each.shape)}")
            found[int(number)][key] = each
    return {number: moments for number, moments in found.items() if moments}
