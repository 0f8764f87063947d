"""The backends by name, whether they can run here, and which one serves a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mergesafe.errors import BackendError, nearest
from mergesafe.extras import install

if TYPE_CHECKING:
    import torch

    from mergesafe.ops.backends.base import Backend


@dataclass(frozen=True)
class BackendEntry:
    """One backend: ``load`` makes it for a device type, ``problem`` says why it cannot run on a
    device such as "cuda" or "cuda:1" here (or None).
    """

    name: str
    summary: str
    devices: tuple[str, ...]
    load: Callable[[str], Backend]
    problem: Callable[[str], str | None]
    details: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class BackendInfo:
    """A row of ``mergesafe info``. ``problems``: why not, by device type, empty where it runs."""

    name: str
    summary: str
    problems: Mapping[str, str]
    details: Mapping[str, Any]

    @property
    def devices(self) -> tuple[str, ...]:
        """The device types that it serves, whether they are here or not."""
        return tuple(self.problems)

    @property
    def available(self) -> bool:
        """Whether it runs on any device of this machine."""
        return not all(self.problems.values())

    @property
    def reason(self) -> str:
        """Why it runs nowhere here, or empty."""
        if self.available:
            return ""
        return "; ".join(dict.fromkeys(self.problems.values()))


@dataclass(frozen=True)
class Registry:
    """Entries in order of preference; refuses to be built from entries that cannot be told apart
    or can never be chosen.
    """

    entries: tuple[BackendEntry, ...]
    by_name: Mapping[str, BackendEntry] = field(init=False)

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        for entry in self.entries:
            if entry.name == "auto" or not entry.name.isidentifier():
                raise ValueError(f"'{entry.name}' cannot name a backend")
            if names.count(entry.name) > 1:
                raise ValueError(f"two backends are called '{entry.name}'")
            if not entry.devices:
                raise ValueError(f"backend '{entry.name}' serves no device")
        table = MappingProxyType({entry.name: entry for entry in self.entries})
        object.__setattr__(self, "by_name", table)

    def __iter__(self) -> Iterator[BackendEntry]:
        return iter(self.entries)

    def get(self, name: str, device: str) -> Backend:
        """The backend called ``name``, or with "auto" the first that runs here on ``device``."""
        kind = device.partition(":")[0]
        if name == "auto":
            for entry in self.entries:
                if kind in entry.devices and entry.problem(device) is None:
                    return entry.load(kind)
            raise BackendError(f"no backend serves the device '{device}'; {self._known()}")
        if name not in self.by_name:
            close = nearest(name, (*self.by_name, "auto"))
            hint = "" if close is None else f" (did you mean '{close}'?)"
            if name.partition(":")[0] in ("cpu", "cuda"):
                hint = ", which is a device: name it as the device instead"
            raise BackendError(f"unknown backend '{name}'{hint}; {self._known()}")
        entry = self.by_name[name]
        if kind not in entry.devices:
            raise BackendError(
                f"backend '{name}' serves {' and '.join(entry.devices)} tensors, but these are on "
                f"'{device}'; {self._known()}"
            )
        problem = entry.problem(device)
        if problem is not None:
            raise BackendError(
                f"backend '{name}' is not available for {device} tensors: {problem}; "
                f"{self._known()}"
            )
        return entry.load(kind)

    def describe(self) -> list[BackendInfo]:
        """Every backend with the reasons why it cannot run here, empty where it can."""
        rows = []
        for entry in self.entries:
            problems = {
                device: entry.problem(device) or _refusal(entry, device) for device in entry.devices
            }
            details = {} if all(problems.values()) else entry.details()
            rows.append(BackendInfo(entry.name, entry.summary, problems, details))
        return rows

    def _known(self) -> str:
        return f"known backends: auto, {', '.join(self.by_name)}"


def _refusal(entry: BackendEntry, device: str) -> str:
    try:
        entry.load(device)
    except BackendError as error:
        return str(error)
    except ModuleNotFoundError:  # of torch: without it, the kernels merge files all the same
        return ""
    return ""


def _torch_problem() -> str:
    """Why there are no tensors here, or empty."""
    if find_spec("torch") is not None:
        return ""
    return f"the package torch is not installed: {install('torch')}"


def _load_native(device: str) -> Backend:
    if device == "cuda":
        from mergesafe.native import extension
        from mergesafe.ops.backends.cuda import CudaBackend

        return CudaBackend(extension.cuda)
    from mergesafe.ops.backends.isa import apply_environment
    from mergesafe.ops.backends.native import NativeBackend

    apply_environment()
    return NativeBackend()


def _native_problem(device: str) -> str | None:
    try:
        from mergesafe.native import extension
    except ImportError as error:
        return f"the compiled extension mergesafe._native cannot be imported ({error})"
    if device == "cpu":
        return None
    if not extension.cuda_compiled:
        return (
            "the extension was built without CUDA (there was no GPU or no nvcc, or "
            "MERGESAFE_CUDA=OFF); with nvcc 12.1 or later, 'MERGESAFE_CUDA=ON pip install .' "
            "builds it for all GPUs"
        )
    without = cuda_problem()
    if without:
        return without
    import torch

    index = device.partition(":")[2]
    return _cuda_problem(int(index) if index else torch.cuda.current_device())


@cache
def _cuda_problem(index: int) -> str | None:
    """Asked once for each device in use: the answer takes a CUDA context there."""
    import torch

    from mergesafe.native import extension

    with torch.cuda.device(index):
        return extension.cuda.problem_of(index) or None


def cuda_problem() -> str:
    """Why tensors cannot lie on a CUDA device here, or empty."""
    without = _torch_problem()
    if without:
        return without
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def _native_details() -> dict[str, Any]:
    from mergesafe.native import extension

    return {
        "isa": extension.isa(),
        "available_isas": extension.available_isas(),
        "compiled_isas": extension.compiled_isas(),
        "compiler": extension.compiler,
        "cuda_compiled": extension.cuda_compiled,
        "cuda_compiler": extension.cuda_compiler,
    }


def _load_triton(device: str) -> Backend:
    from mergesafe.ops.backends.triton import TritonBackend

    return TritonBackend()


def _triton_problem(device: str) -> str | None:
    if find_spec("triton") is None:
        return f"the package triton is not installed: {install('triton')}"
    return cuda_problem() or None


def _triton_details() -> dict[str, Any]:
    import triton

    return {"triton": triton.__version__}


def _load_reference(device: str) -> Backend:
    from mergesafe.ops.backends.reference import ReferenceBackend

    return ReferenceBackend()


def _reference_problem(device: str) -> str | None:
    return (cuda_problem() if device.startswith("cuda") else _torch_problem()) or None


def _torch_details() -> dict[str, Any]:
    import torch

    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


REGISTRY = Registry(
    (
        BackendEntry(
            name="native",
            summary="fused C++ kernels, chosen per instruction set, and CUDA kernels",
            devices=("cpu", "cuda"),
            load=_load_native,
            problem=_native_problem,
            details=_native_details,
        ),
        BackendEntry(
            name="triton",
            summary="the same kernels compiled at run time, where CUDA was missing at build time",
            devices=("cuda",),
            load=_load_triton,
            problem=_triton_problem,
            details=_triton_details,
        ),
        BackendEntry(
            name="reference",
            summary="the specification in plain torch: slow, runs on every device",
            devices=("cpu", "cuda"),
            load=_load_reference,
            problem=_reference_problem,
            details=_torch_details,
        ),
    )
)


def get_backend(name: str = "auto", device: str | torch.device = "cpu") -> Backend:
    """The backend called ``name``; "auto" takes the fastest that serves ``device``.

    Raises :class:`BackendError` with the reason and the known names if it is unknown, cannot run
    here or does not serve the device.
    """
    return REGISTRY.get(name, str(device))


def describe_backends() -> list[BackendInfo]:
    """All backends, whether they can run here, and details such as instruction sets."""
    return REGISTRY.describe()
