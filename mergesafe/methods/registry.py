"""The merge methods by name, and methods of one's own by ``package.module:name``.

``core_space(NAME)`` is the method that merges adapters in core space by the method NAME.

A method of one's own lies in any module that Python can import, or is offered by an installed
package as an entry point of the group ``mergesafe.methods``.
"""

from __future__ import annotations

import importlib
import re
import sys
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from mergesafe.errors import ArgumentError, MethodError, did_you_mean
from mergesafe.methods.contract import raised
from mergesafe.methods.declaration import check_declaration
from mergesafe.methods.definitions.actmat import ActMat
from mergesafe.methods.definitions.arcee_fusion import ArceeFusion
from mergesafe.methods.definitions.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from mergesafe.methods.definitions.cart import Cart
from mergesafe.methods.definitions.consensus import Consensus
from mergesafe.methods.definitions.core_space import NAME as CORE_SPACE
from mergesafe.methods.definitions.core_space import CoreSpace
from mergesafe.methods.definitions.dare import DareLinear, DareTies
from mergesafe.methods.definitions.della import Della, DellaLinear
from mergesafe.methods.definitions.emr import Emr
from mergesafe.methods.definitions.fisher import Fisher
from mergesafe.methods.definitions.interpolate import Interpolate
from mergesafe.methods.definitions.iso_c import IsoC
from mergesafe.methods.definitions.iso_cts import IsoCts
from mergesafe.methods.definitions.karcher import Karcher
from mergesafe.methods.definitions.led import Led
from mergesafe.methods.definitions.linear import Linear
from mergesafe.methods.definitions.lines import LiNeS
from mergesafe.methods.definitions.localize_stitch import LocalizeStitch
from mergesafe.methods.definitions.magmax import MagMax
from mergesafe.methods.definitions.merge_align import MergeAlign
from mergesafe.methods.definitions.model_stock import ModelStock
from mergesafe.methods.definitions.multislerp import Multislerp
from mergesafe.methods.definitions.nearswap import Nearswap
from mergesafe.methods.definitions.nuslerp import Nuslerp
from mergesafe.methods.definitions.passthrough import Passthrough
from mergesafe.methods.definitions.pcb import Pcb
from mergesafe.methods.definitions.ram import Ram, RamPlusTensorLocal
from mergesafe.methods.definitions.regmean import RegMean
from mergesafe.methods.definitions.resta import Resta
from mergesafe.methods.definitions.safe_delta import SafeDelta
from mergesafe.methods.definitions.safe_lora import SafeLora
from mergesafe.methods.definitions.safe_merge import SafeMerge
from mergesafe.methods.definitions.sce import Sce
from mergesafe.methods.definitions.slerp import Slerp
from mergesafe.methods.definitions.star import Star
from mergesafe.methods.definitions.subspace_boosting import SubspaceBoosting
from mergesafe.methods.definitions.task_arithmetic import TaskArithmetic
from mergesafe.methods.definitions.ties import Ties
from mergesafe.methods.definitions.tsv import TaskSingularVectors
from mergesafe.methods.definitions.wudi import Wudi
from mergesafe.methods.spec import MergeMethod

METHODS: dict[str, MergeMethod] = {
    method.name: method
    for method in (
        Linear(), Slerp(), Nuslerp(), Multislerp(), Nearswap(), Karcher(), Passthrough(),
        TaskArithmetic(), LiNeS(), Ties(), DareLinear(), DareTies(), Della(), DellaLinear(),
        Breadcrumbs(), BreadcrumbsTies(), Sce(), Ram(), RamPlusTensorLocal(), LocalizeStitch(),
        Consensus(), Emr(), ModelStock(),
        TaskSingularVectors(), IsoC(), IsoCts(), Star(), SubspaceBoosting(), Cart(), MagMax(),
        Wudi(), ActMat(), Fisher(), RegMean(),
        CoreSpace(TaskArithmetic(), CORE_SPACE),
        ArceeFusion(),
        MergeAlign(), Interpolate(), Resta(), SafeLora(), SafeMerge(),
        Pcb(),
        Led(), SafeDelta(),
    )
}  # fmt: skip
#: The group of entry points: ``NAME = "package.module:name"``.
GROUP: Final = "mergesafe.methods"
_PATH: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def get_method(name: str) -> MergeMethod:
    """The method called ``name``, or at ``package.module:name``.

    Raises:
        ArgumentError: there is none; names the nearest known one, or says why the module cannot be
            imported.
        MethodError: what is there declares what no method can be.
    """
    if name in METHODS:
        return METHODS[name]
    if name.startswith(f"{CORE_SPACE}(") and name.endswith(")"):
        return _in_core_space(name[len(CORE_SPACE) + 1 : -1])
    if ":" in name:
        return _imported(name)
    offered = offered_methods()
    if name in offered:
        return _imported(offered[name], name)
    hint = did_you_mean(name, [*METHODS, *offered])
    raise ArgumentError(f"unknown merge method '{name}'{hint}")


def file_digest(method: MergeMethod) -> str | None:
    """SHA-256 of the file that a method of one's own is written in; None for mergesafe's own.

    What that file imports is not part of it.
    """
    if isinstance(method, CoreSpace):
        return file_digest(method.inner)
    written = getattr(method, "function", type(method))
    place = getattr(sys.modules.get(written.__module__), "__file__", None)
    if METHODS.get(method.name) is method or place is None:
        return None
    return sha256(Path(place).read_bytes()).hexdigest()


@lru_cache(maxsize=64)
def _in_core_space(inner: str) -> MergeMethod:
    return CoreSpace(get_method(inner))


@lru_cache(maxsize=64)
def _imported(path: str, name: str | None = None) -> MergeMethod:
    """The method at ``package.module:name``, known by that or by ``name``."""
    if not _PATH.fullmatch(path):
        raise ArgumentError(f"merge method '{path}': expected a name, or 'package.module:name'")
    module, _, attribute = path.partition(":")
    # Some modules do something when they are imported, and a recipe may be a stranger's.
    if module.partition(".")[0] in sys.stdlib_module_names or module.endswith("__main__"):
        raise ArgumentError(
            f"merge method '{path}': '{module}' is no module that holds merge methods; expected "
            "one of your own or of an installed package"
        )
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = f"module '{error.name}'"
        raise ArgumentError(
            f"merge method '{path}': there is no {missing}; install the package that has it, or "
            "put its folder on PYTHONPATH"
        ) from error
    except AttributeError as error:
        known = _methods_in(module) if error.name == attribute else ()
        raise ArgumentError(
            f"merge method '{path}': {error}{did_you_mean(attribute, known)}"
        ) from error
    except Exception as error:
        raise ArgumentError(
            f"merge method '{path}': importing the module '{module}' failed: {raised(error)}"
        ) from error
    method = _instance(found, path)
    check_declaration(method, path)
    method.name = name or path
    declared: MergeMethod = method
    return declared


def _instance(found: Any, path: str) -> Any:
    """What stands at a path; of a class of methods, one."""
    if not (isinstance(found, type) and issubclass(found, MergeMethod)):
        return found
    try:
        return found()
    except Exception as error:
        raise MethodError(
            f"merge method '{path}': making one of the class failed: {raised(error)}; expected a "
            "class with merge(), whose __init__ needs no arguments"
        ) from error


def _methods_in(module: str) -> list[str]:
    """The names in a module that a recipe can give."""
    found = vars(importlib.import_module(module)).items()
    return [
        name
        for name, value in found
        if isinstance(value, MergeMethod)
        or (
            isinstance(value, type)
            and issubclass(value, MergeMethod)
            and value.__module__ == module
        )
    ]


@lru_cache(maxsize=1)
def offered_methods() -> dict[str, str]:
    """The entry points of installed packages: name -> ``package.module:name``."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=GROUP)}
