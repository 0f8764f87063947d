"""The backends by name, whether they can run here, and which one serves a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mergesafe.errors import BackendError, did_you_mean

if TYPE_CHECKING:
    import torch

    from mergesafe.ops.backends.base import Backend


@dataclass(frozen=True)
class BackendEntry:
    """One backend: ``load`` makes it, ``problem`` says why it cannot run here (or None)."""

    name: str
    summary: str
    devices: tuple[str, ...]
    load: Callable[[], Backend]
    problem: Callable[[], str | None]
    details: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class BackendInfo:
    """A row of ``mergesafe info``."""

    name: str
    summary: str
    devices: tuple[str, ...]
    available: bool
    reason: str
    details: Mapping[str, Any]


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
        if name == "auto":
            for entry in self.entries:
                if device in entry.devices and entry.problem() is None:
                    return entry.load()
            raise BackendError(f"no backend serves the device '{device}'; {self._known()}")
        if name not in self.by_name:
            names = [*self.by_name, "auto"]
            raise BackendError(
                f"unknown backend '{name}'{did_you_mean(name, names)}; {self._known()}"
            )
        entry = self.by_name[name]
        problem = entry.problem()
        if problem is not None:
            raise BackendError(f"backend '{name}' is not available: {problem}; {self._known()}")
        if device not in entry.devices:
            raise BackendError(
                f"backend '{name}' serves {' and '.join(entry.devices)} tensors, but these are on "
                f"'{device}'; {self._known()}"
            )
        return entry.load()

    def describe(self) -> list[BackendInfo]:
        """Every backend with the reason why it cannot run here, empty if it can."""
        rows = []
        for entry in self.entries:
            reason = entry.problem() or _refusal(entry)
            details = {} if reason else entry.details()
            rows.append(
                BackendInfo(entry.name, entry.summary, entry.devices, not reason, reason, details)
            )
        return rows

    def _known(self) -> str:
        return f"known backends: auto, {', '.join(self.by_name)}"


def _refusal(entry: BackendEntry) -> str:
    try:
        entry.load()
    except BackendError as error:
        return str(error)
    return ""


def _load_native() -> Backend:
    from mergesafe.ops.backends.isa import apply_environment
    from mergesafe.ops.backends.native import NativeBackend

    apply_environment()
    return NativeBackend()


def _native_problem() -> str | None:
    try:
        from mergesafe import _native  # noqa: F401
    except ImportError as error:
        return f"the compiled extension mergesafe._native cannot be imported ({error})"
    return None


def _native_details() -> dict[str, Any]:
    from mergesafe import _native

    return {
        "isa": _native.isa(),
        "available_isas": _native.available_isas(),
        "compiled_isas": _native.compiled_isas(),
        "compiler": _native.compiler,
        "cuda_compiled": _native.cuda_compiled,
    }


def _load_reference() -> Backend:
    from mergesafe.ops.backends.reference import ReferenceBackend

    return ReferenceBackend()


def _torch_details() -> dict[str, Any]:
    import torch

    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


REGISTRY = Registry(
    (
        BackendEntry(
            name="native",
            summary="fused C++ kernels, chosen per instruction set",
            devices=("cpu",),
            load=_load_native,
            problem=_native_problem,
            details=_native_details,
        ),
        BackendEntry(
            name="reference",
            summary="the specification in plain torch: slow, runs on every device",
            devices=("cpu", "cuda"),
            load=_load_reference,
            problem=lambda: None,
            details=_torch_details,
        ),
    )
)


def get_backend(name: str = "auto", device: str | torch.device = "cpu") -> Backend:
    """The backend called ``name``; "auto" takes the fastest that serves ``device``.

    Raises :class:`BackendError` with the reason and the known names if it is unknown, cannot run
    here or does not serve the device.
    """
    kind = device if isinstance(device, str) else device.type
    return REGISTRY.get(name, kind.partition(":")[0])


def describe_backends() -> list[BackendInfo]:
    """All backends, whether they can run here, and details such as instruction sets."""
    return REGISTRY.describe()
