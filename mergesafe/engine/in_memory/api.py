"""``merge_state_dicts`` and ``merge_modules``: merges of models that lie in memory."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

import torch
from torch import nn

from mergesafe.checkpoint.format.model import SINGLE_NAME
from mergesafe.engine.api import MAX_SEED, ON_NONFINITE, thread_count, whole
from mergesafe.engine.in_memory.modules import config_of, state_of, with_tensors
from mergesafe.engine.in_memory.run import Merged, run_in_memory
from mergesafe.engine.in_memory.state import folder_of
from mergesafe.engine.memory import budget_of
from mergesafe.engine.plan.merge_plan import MergePlan, make_plan
from mergesafe.engine.plan.unused import without_unused
from mergesafe.engine.run.bar import Progress, shown
from mergesafe.engine.run.devices import choose
from mergesafe.engine.run.workers import Options
from mergesafe.errors import ArgumentError, CheckpointError, MergesafeWarning, did_you_mean
from mergesafe.methods.registry import get_method
from mergesafe.outline.sources import Made
from mergesafe.python_words import python_words
from mergesafe.recipe.load import load_recipe

#: Tensors (or NumPy arrays) by their names.
StateDict: TypeAlias = Mapping[str, Any]
#: What a parameter may be in a recipe.
Value: TypeAlias = float | str | Sequence[float] | Sequence[Mapping[str, Any]] | Mapping[str, Any]
Held = TypeVar("Held")
Model = TypeVar("Model", bound=nn.Module)

_LOG: Final = logging.getLogger("mergesafe")
#: One shard holds everything.
_SHARD: Final = 1 << 60
#: Whose line a warning names: who called the function of this module's, through the package.
_CALLER: Final = 4


def merge_state_dicts(
    method: str,
    base: StateDict | None,
    models: Sequence[StateDict | tuple[StateDict, Mapping[str, Value]]],
    *,
    references: Mapping[str, StateDict | str] | None = None,
    calibration: Mapping[str, Sequence[StateDict | str]] | None = None,
    config: Mapping[str, Any] | None = None,
    dtype: str | torch.dtype | None = None,
    out_dtype: str | torch.dtype | None = None,
    keep_float32: bool = True,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    memory: str | int | None = None,
    threads: int | None = None,
    on_nonfinite: Literal["error", "warn", "zero"] = "error",
    progress: Progress = False,
    **parameters: Value,
) -> dict[str, torch.Tensor]:
    """Merge models in memory: to the bytes that :func:`mergesafe.merge` writes of their files.

    >>> merged = ms.merge_state_dicts("ties", base, [math, code], weight=0.5, density=[0.3, 0.7])

    All rules of a merge of files hold: tensors are paired by name, norms and routers that a model
    keeps in float32 stay so, integer tensors are copied and must be equal in every model, counters
    and computed buffers are the base's, and no model may lack a tensor that others have.

    Args:
        method: its name, as in a recipe; one's own as ``"module:name"``.
        base: the base's tensors by their names; None for a method that takes none. Of slerp and
            its like, which merge the base with another model, that is the first of both.
        models: the other models' tensors, in order. A pair ``(state_dict, {"weight": 0.3})`` gives
            a model parameters of its own. Tensors may have any dtype that checkpoints have, lie on
            any device, and be NumPy arrays; those of one name must have one shape.
        references: the models that the method compares with, by name: state dicts or paths.
        calibration: the numbers about ``models`` that the method needs, by name: for each of the
            models, in their order, a state dict or a path.
        config: the ``config.json`` of these models, where there is one. It says which embeddings
            are tied and which tensors hold the experts of a layer.
        dtype: what is computed with, such as ``"bfloat16"`` or ``torch.bfloat16``, and the type of
            the result; by default the common type of each tensor.
        out_dtype: the type of the result, where that is another.
        keep_float32: float32 tensors of 16-bit models stay float32.
        seed: of random masks, which the tensor's name and the model's place choose as well.
        device: ``auto`` and ``cpu``: the CPU. ``cuda``: all GPUs, ``cuda:1`` one of them.
        backend: ``auto``, or force one by name.
        memory: bytes for buffers, as a number or text such as ``"2GiB"``.
        threads: default: the processors this process may use.
        on_nonfinite: NaN or infinity in an input: ``error``, ``warn`` or ``zero``.
        progress: True shows a bar; or a function as of :func:`mergesafe.merge`.
        parameters: of the method, as under ``parameters`` in a recipe: one value; a list of numbers
            over the layers, from the first to the last; or ``[{"filter": "self_attn", "value":
            0.3}, {"value": 0.5}]``. ``lambda``, a Python keyword, may be written ``lambda_``.

    Returns:
        The merged tensors by name, each on the device of the base's tensor (without a base, the
        first model's). Memory besides these: ``memory``, and a copy of tensors with strides.

    Raises:
        ArgumentError: a model is no state dict, or a tensor is on the meta device or not dense.
        CheckpointError: a tensor is missing, left over, of another shape or type; names model and
            tensor.
        RecipeError: a parameter is not as the method declares it.
        NonFiniteError: an input holds NaN or infinity.

    Warns:
        MergesafeWarning: what may make the merged model wrong, and a list that looks like one
            value for each model.
    """
    options = _options(memory, threads, on_nonfinite, device, backend)
    recipe = _Recipe(method, dtype, out_dtype, keep_float32, parameters)
    for text, state, own in _named(base, models):
        recipe.add(text, state, config, own)
    recipe.beside(references or {}, calibration or {})
    plan = recipe.planned(whole(seed, "seed", 0, MAX_SEED))
    return recipe.placed(plan, options, progress)


def merge_modules(
    method: str,
    base: Model | None,
    models: Sequence[Model | tuple[Model, Mapping[str, Value]]],
    *,
    references: Mapping[str, StateDict | str] | None = None,
    calibration: Mapping[str, Sequence[StateDict | str]] | None = None,
    dtype: str | torch.dtype | None = None,
    out_dtype: str | torch.dtype | None = None,
    keep_float32: bool = True,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    memory: str | int | None = None,
    threads: int | None = None,
    on_nonfinite: Literal["error", "warn", "zero"] = "error",
    progress: Progress = False,
    **parameters: Value,
) -> Model:
    """Merge modules of torch: a copy of the base (without one, of the first) with merged weights.

    >>> model = ms.merge_modules("linear", None, [one, two], weight=0.5)

    The weights are those of :func:`merge_state_dicts` of the modules' parameters and persistent
    buffers, and arguments and errors are the same. The configuration of a model of transformers
    counts as its ``config.json``. Tied parameters are merged once and stay tied; ``requires_grad``
    is that of the base; what is no parameter or persistent buffer is copied from the base.

    Raises:
        ArgumentError: a model is no module or has adapters of PEFT over it, a parameter is on the
            meta device, or the merged model has a tensor for which the base has no place.
        CheckpointError, RecipeError, NonFiniteError: as of :func:`merge_state_dicts`.
    """
    options = _options(memory, threads, on_nonfinite, device, backend)
    recipe = _Recipe(method, dtype, out_dtype, keep_float32, parameters)
    reference: Model | None = None
    for text, module, own in _named(base, models):
        state = state_of(text, module)
        reference = module if reference is None else reference
        recipe.add(text, state, config_of(module), own)
    recipe.beside(references or {}, calibration or {})
    plan = recipe.planned(whole(seed, "seed", 0, MAX_SEED))
    stored = plan.reference.checkpoint.tensors
    merged = {
        stored[name].name if name in stored else name: tensor
        for name, tensor in recipe.placed(plan, options, progress).items()
    }
    assert reference is not None
    return with_tensors(reference, merged)


def _options(
    memory: str | int | None, threads: int | None, on_nonfinite: str, device: str, backend: str
) -> partial[Merged]:
    """What runs a plan, checked before anything is planned."""
    if on_nonfinite not in ON_NONFINITE:
        hint = did_you_mean(on_nonfinite, ON_NONFINITE)
        raise ArgumentError(f"on_nonfinite is {on_nonfinite!r}: unknown choice{hint}")
    processor = choose(backend, device, None, zero_nonfinite=on_nonfinite == "zero")
    options = Options(budget_of(memory), thread_count(threads), on_nonfinite=on_nonfinite)
    return partial(run_in_memory, options=options, processor=processor)


def _named(
    base: Held | None, models: Sequence[Held | tuple[Held, Mapping[str, Value]]]
) -> list[tuple[str, Held, Mapping[str, Value]]]:
    """What each is called in messages, and its own parameters; the base first.

    Raises:
        ArgumentError: ``models`` is no list of models.
    """
    if isinstance(models, Mapping | nn.Module) or not isinstance(models, Sequence) or not models:
        given = "empty" if models == [] or models == () else f"a {type(models).__name__}"
        raise ArgumentError(f"models is {given}; expected a list of one or more models")
    found: list[tuple[str, Held, Mapping[str, Value]]] = []
    if base is not None:
        found.append(("base", base, {}))
    for number, each in enumerate(models):
        text = f"models[{number}]"
        if not isinstance(each, tuple):
            found.append((text, each, {}))
            continue
        if len(each) != 2 or not isinstance(each[1], Mapping):
            raise ArgumentError(
                f"{text} is a tuple; expected a model, or a pair of a model and its parameters "
                "such as (model, {'weight': 0.3})"
            )
        found.append((text, each[0], each[1]))
    return found


class _Recipe:
    """A recipe in the making, whose models lie in memory."""

    def __init__(
        self,
        method: str,
        dtype: str | torch.dtype | None,
        out_dtype: str | torch.dtype | None,
        keep_float32: bool,
        parameters: Mapping[str, Value],
    ) -> None:
        self._method = get_method(method)
        self._folders: dict[str, Made] = {}
        self._devices: dict[str, torch.device] = {}
        self._config: Mapping[str, Any] | None = None
        self._models: list[dict[str, Any]] = []
        self._root: dict[str, Any] = {"merge_method": method, "keep_float32": keep_float32}
        for key, value in (("dtype", dtype), ("out_dtype", out_dtype)):
            if value is not None:
                self._root[key] = str(value)
        self._root["parameters"] = _spelt(parameters)

    def add(
        self,
        text: str,
        state: StateDict,
        config: Mapping[str, Any] | None,
        parameters: Mapping[str, Value],
    ) -> None:
        """One more model; the result lies where the first does."""
        self._folders[text] = folder_of(text, state, config)
        if len(self._folders) == 1:
            self._config = config
            found = ((name, getattr(each, "device", None)) for name, each in state.items())
            self._devices = {name: at for name, at in found if isinstance(at, torch.device)}
        if text == "base":
            self._root["base_model"] = text
        else:
            self._models.append({"model": text, "parameters": _spelt(parameters)})

    def beside(
        self,
        references: Mapping[str, StateDict | str],
        calibration: Mapping[str, Sequence[StateDict | str]],
    ) -> None:
        """What the method is given besides models."""
        if references:
            self._root["references"] = {
                name: self._place(f"references[{name!r}]", each, self._config)
                for name, each in references.items()
            }
        for name, values in calibration.items():
            if len(values) != len(self._models):
                raise ArgumentError(
                    f"calibration[{name!r}] has {len(values)} entries; expected "
                    f"{len(self._models)}, one for each of models"
                )
            for number, (model, value) in enumerate(zip(self._models, values, strict=True)):
                place = self._place(f"calibration[{name!r}][{number}]", value, None)
                model.setdefault("calibration", {})[name] = place

    def planned(self, seed: int) -> MergePlan:
        """The plan.

        Raises:
            MergesafeError: the recipe or a model is wrong.
        """
        self._warn_of_lists()
        recipe = load_recipe({**self._root, "models": self._models})
        with self.named():
            return without_unused(
                make_plan(recipe, max_shard_size=_SHARD, seed=seed, documents=self._folders)
            )

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors within call the models as they are called here, without a file."""
        try:
            yield
        except CheckpointError as error:
            for text in self._folders:
                error.reword(partial(_without, f"{text}/{SINGLE_NAME}", text))
            raise

    def placed(
        self, plan: MergePlan, run: partial[Merged], progress: Progress
    ) -> dict[str, torch.Tensor]:
        """What the plan makes, on the devices of the first model's tensors.

        Its warnings are given, and its notes logged.

        Raises:
            MergesafeError: an input holds what must not be merged.
        """
        for note in plan.notes:
            _LOG.info(note)
        with shown(progress) as start, self.named():
            merged = run(plan, progress=start)
        for text in (*plan.warnings, *merged.warnings):
            warnings.warn(python_words(text), MergesafeWarning, stacklevel=_CALLER)
        return {
            name: each.to(self._devices.get(name, "cpu")) for name, each in merged.tensors.items()
        }

    def _place(self, text: str, value: StateDict | str, config: Mapping[str, Any] | None) -> str:
        if isinstance(value, str):
            return value
        self._folders[text] = folder_of(text, value, config)
        return text

    def _warn_of_lists(self) -> None:
        """Of lists over the layers that have as many numbers as there are models.

        ``methods.ties(..., weight=[0.3, 0.7])`` takes such a list for one number per model.
        """
        count = len(self._models) + (self._method.inputs.base == "member")
        for each in self._method.parameters:
            value = self._root["parameters"].get(each.name)
            if each.scope == "global" or not isinstance(value, list | tuple):
                continue
            if len(value) == count and len({str(x) for x in value}) > 1 and _are_numbers(value):
                warnings.warn(
                    f"{each.name}={value!r} is taken over the layers, from the first to the last, "
                    "as in a recipe. For one value per model write models=[(model, "
                    f"{{{each.name!r}: {value[0]!r}}}), ...]; to say that layers are meant, write "
                    f"{each.name}=[{{'value': {value!r}}}]",
                    MergesafeWarning,
                    stacklevel=_CALLER + 1,
                )


def _without(file: str, model: str, text: str) -> str:
    return text.replace(file, model)


def _are_numbers(values: Sequence[object]) -> bool:
    return all(isinstance(each, int | float) for each in values)


def _spelt(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """With ``lambda`` as recipes have it.

    Raises:
        ArgumentError: it is given in both spellings.
    """
    if "lambda_" in parameters and "lambda" in parameters:
        raise ArgumentError("lambda and lambda_ are the same parameter; give one of them")
    return {"lambda" if name == "lambda_" else name: v for name, v in parameters.items()}
