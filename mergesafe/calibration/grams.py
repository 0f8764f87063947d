"""Gram matrices of what the weights of a layer multiply.

For a weight W of shape [m, n], ``G = (1/T) sum_t x_t x_t^T`` over the inputs x_t of W at all T
tokens of the records, [n, n]. Products of at most :data:`ROWS` tokens are computed in float32 and
added up in float64; the mean is rounded once to float32. Only the blocks on and above the diagonal
are computed, so that G is symmetric to the last bit. Weights that multiply the same activations
have one accumulator. An expert of a mixture has the sum over the tokens that reach it, divided by
T, too: zeros where none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from mergesafe.architecture.experts import matrices
from mergesafe.architecture.tying import is_matrix
from mergesafe.calibration.layers import Layered
from mergesafe.calibration.output import CalibrationFolder
from mergesafe.calibration.parameters import Weights
from mergesafe.calibration.states import States
from mergesafe.calibration.task import Task, embed_all
from mergesafe.errors import ModelError

Tensor = torch.Tensor

#: Tokens whose products are computed together.
ROWS: Final = 1024
#: Columns of a block of a Gram matrix.
BLOCK: Final = 512


@dataclass(frozen=True)
class Group:
    """Weights that multiply the same activations.

    ``names``: the stored tensors. ``width``: values of an activation. ``module``: what is given
    them, or the module of the experts; ``expert``: the number of one; ``inner``: what its second
    matrix multiplies.
    """

    names: tuple[str, ...]
    width: int
    module: nn.Module
    expert: int | None = None
    inner: bool = False


class Accumulator:
    """Sums x x^T of activations of ``width`` values; at most ``most`` of them are added at once."""

    def __init__(self, width: int, most: int, device: torch.device) -> None:
        self._sum = torch.zeros(width, width, dtype=torch.float64, device=device)
        self._rows = torch.empty(max(ROWS, most), width, device=device)
        self._used = 0

    def add(self, x: Tensor) -> None:
        """Add rows [tokens, width]."""
        if self._used + len(x) > len(self._rows):
            self._flush()
        self._rows[self._used : self._used + len(x)] = x
        self._used += len(x)

    def mean(self, tokens: int) -> Tensor:
        """float32 [width, width]; the accumulator cannot be used any more."""
        self._flush()
        width = len(self._sum)
        made = torch.empty(width, width)
        for begin in range(0, width, BLOCK):
            end = min(begin + BLOCK, width)
            strip = (self._sum[begin:end, begin:] / tokens).float().cpu()
            corner = strip[:, : end - begin]
            corner.copy_(corner.triu() + corner.triu(1).T)
            made[begin:end, begin:] = strip
            made[begin:, begin:end] = strip.T
        return made

    def _flush(self) -> None:
        x = self._rows[: self._used]
        for begin in range(0, x.shape[1] if self._used else 0, BLOCK):
            end = begin + BLOCK
            self._sum[begin:end, begin:] += x[:, begin:end].T @ x[:, begin:]
        self._used = 0


def accumulator_bytes(width: int, most: int) -> int:
    """What an :class:`Accumulator` takes, and what its products take meanwhile."""
    return width * (8 * width + 4 * max(ROWS, most) + 4 * BLOCK)


def gram_names(model: Layered, weights: Weights, index: int) -> dict[str, int]:
    """The stored matrices of a layer that get a Gram, each with its number of columns."""
    found = {}
    for name in model.of_layer(index):
        for part in weights.parts(name, model.shapes[name]):
            if is_matrix(part.name, part.shape):
                found[part.name] = part.shape[1]
    return found


def groups_of(
    model: Layered, weights: Weights, index: int, pass_one: Callable[[], Any]
) -> list[Group]:
    """The groups of a layer. ``pass_one()`` runs the loaded layer for one record.

    Raises:
        ModelError: the input of a matrix cannot be known.
    """
    prefix, layer = model.layers[index]
    wanted = gram_names(model, weights, index)
    names: dict[nn.Module, str] = {}
    groups: list[Group] = []
    for path, module in layer.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            name = ".".join(filter(None, (prefix, path, key)))
            parts = weights.parts(name, model.shapes[name])
            if len(parts) > 1:
                groups += _experts(model, module, name, [part.name for part in parts])
            elif parts[0].name in wanted:
                _refuse_transposed(module, name)
                names[module] = parts[0].name
    inputs = _inputs(list(names), pass_one)
    alike: dict[int, list[nn.Module]] = {}
    for module in names:
        given = inputs.get(module)
        alike.setdefault(id(module if given is None else given), []).append(module)
    dense = [
        Group(tuple(names[m] for m in modules), wanted[names[modules[0]]], modules[0])
        for modules in alike.values()
    ]
    for group in dense:
        given = inputs.get(group.module)
        if given is not None and given.shape[-1] != group.width:
            raise ModelError(
                f"'{group.names[0]}' has {group.width} columns, but its module is given "
                f"{given.shape[-1]} values a token: what it multiplies is not known"
            )
    return dense + groups


@contextmanager
def collecting(groups: Sequence[Group], accumulators: Sequence[Accumulator]) -> Iterator[None]:
    """What the groups' modules are given in passes of the block is added to the accumulators."""
    experts: dict[nn.Module, list[tuple[Group, Accumulator]]] = {}
    with ExitStack() as stack:
        for group, accumulator in zip(groups, accumulators, strict=True):
            if group.expert is not None:
                experts.setdefault(group.module, []).append((group, accumulator))
                continue

            def plain(_: nn.Module, x: tuple[Tensor, ...], to: Accumulator = accumulator) -> None:
                to.add(x[0].detach().reshape(-1, x[0].shape[-1]))

            stack.callback(group.module.register_forward_pre_hook(plain).remove)
        for module, each in experts.items():

            def routed(
                module: nn.Module, x: tuple[Tensor, ...],
                each: list[tuple[Group, Accumulator]] = each,
            ) -> None:  # fmt: skip
                _add_routed(module, x[0].reshape(-1, x[0].shape[-1]), x[1], each)

            stack.callback(module.register_forward_pre_hook(routed).remove)
        yield


def _inputs(modules: Sequence[nn.Module], pass_one: Callable[[], Any]) -> dict[nn.Module, Tensor]:
    """What each module is given in a pass; those that it does not reach are left out."""
    inputs: dict[nn.Module, Tensor] = {}

    def seen(module: nn.Module, x: tuple[Tensor, ...]) -> None:
        inputs[module] = x[0]

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(seen).remove)
        pass_one()
    return inputs


def _experts(model: Layered, module: nn.Module, name: str, parts: list[str]) -> list[Group]:
    """The groups of a parameter that holds the matrices of all experts."""
    columns = model.shapes[name][-1]
    count = model.shapes[name][0]
    if not name.endswith(("gate_up_proj", "down_proj")) or not hasattr(module, "act_fn"):
        raise ModelError(
            f"'{name}' holds experts of a kind whose activations are not known, so there are no "
            "Grams of them; calibrate a model whose experts have gate, up and down projections"
        )
    each = len(parts) // count
    inner = name.endswith("down_proj")
    return [
        Group(tuple(parts[e * each : (e + 1) * each]), columns, module, e, inner)
        for e in range(count)
    ]


def _add_routed(
    module: Any, x: Tensor, chosen: Tensor, each: list[tuple[Group, Accumulator]]
) -> None:
    """Add the activations of the tokens that reach each expert; ``chosen``: [tokens, k]."""
    for group, accumulator in each:
        assert group.expert is not None
        reached = chosen.reshape(len(x), -1).eq(group.expert).any(1)
        given = x[reached]
        if not len(given):
            continue
        if group.inner:
            gate, up = functional.linear(given, module.gate_up_proj[group.expert]).chunk(2, -1)
            given = module.act_fn(gate) * up
        accumulator.add(given.detach())


def _refuse_transposed(module: nn.Module, name: str) -> None:
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        raise ModelError(
            f"'{name}' is stored [in, out], and methods that take Grams are for weights "
            "[out, in]: there are no Grams of models of this architecture"
        )


def fused_experts(model: Layered, weights: Weights) -> list[str]:
    """Tensors that hold several matrices of a layer, of which a merge takes no Grams."""
    config = model.module.config.to_dict()
    return [
        name
        for index in range(len(model.layers))
        for name in model.of_layer(index)
        if len(model.shapes[name]) == 3
        and len(weights.parts(name, model.shapes[name])) == 1
        and matrices(name, model.shapes[name], config) is not None
    ]


def check_memory(task: Task) -> None:
    """Refuse a budget that does not hold a layer and the largest of its Grams.

    Raises:
        ArgumentError: it does not; says how much would.
    """
    for index, (name, _) in enumerate(task.model.layers):
        widths = [*gram_names(task.model, task.weights, index).values()]
        fixed = task.fixed_bytes(task.model.of_layer(index)) + _copy(widths)
        task.shares([_need(task, width) for width in widths], fixed, f"layer '{name}'")


def layer_grams(
    task: Task, index: int, states: States, folder: CalibrationFolder, *, go_on: bool
) -> None:
    """Write the Grams of a layer that are not written yet; its parameters are loaded.

    ``states`` holds what the layer gets, and with ``go_on`` what it makes of it in the end.
    """
    model = task.model
    groups = groups_of(
        model, task.weights, index, lambda: model.run(index, task.ids[0], _rows(task, states, 0))
    )
    left = [group for group in groups if not folder.finished.issuperset(group.names)]
    fixed = task.fixed_bytes(model.of_layer(index)) + _copy([group.width for group in left])
    needs = [_need(task, group.width) for group in left]
    longest, tokens = task.examples.longest, task.examples.tokens
    shares = task.shares(needs, fixed, f"layer '{model.layers[index][0]}'")
    if not shares and go_on:
        pass_on(task, index, states)
    for number, share in enumerate(shares):
        chosen = [left[i] for i in share]
        sums = [Accumulator(group.width, longest, model.device) for group in chosen]
        with collecting(chosen, sums):
            for record, ids in enumerate(task.ids):
                out = model.run(index, ids, _rows(task, states, record))
                if go_on and number == len(shares) - 1:
                    states.put(0, record, out)
        while chosen:
            group, total = chosen.pop(), sums.pop()
            mean = total.mean(tokens)
            if not bool(mean.isfinite().all()):
                raise ModelError(
                    f"'{group.names[0]}': what it multiplies is not finite for these records, so "
                    "there is no Gram; check the model with 'mergesafe vet'"
                )
            for name in group.names:
                folder.write(name, mean)
            folder.finish(group.names)


def pass_on(task: Task, index: int, states: States) -> None:
    """Put what the loaded layer makes of every record in the place of what it got."""
    for record, ids in enumerate(task.ids):
        states.put(0, record, task.model.run(index, ids, _rows(task, states, record)))


def make_grams(task: Task, folder: CalibrationFolder) -> None:
    """Write the Grams of all layers, layer by layer.

    Raises:
        MergesafeError: the model cannot be run, or memory or disk do not suffice.
    """
    model = task.model
    count = len(model.layers)
    with torch.no_grad(), task.states(1) as states:
        embed_all(task, states)
        for index in range(count):
            with (
                model.loaded(model.outside, task.weights),
                model.loaded(model.of_layer(index), task.weights),
            ):
                layer_grams(task, index, states, folder, go_on=index + 1 < count)
            task.progress("layers", index + 1, count)


def _rows(task: Task, states: States, record: int) -> Tensor:
    return states.get(0, record)[None].to(task.model.device)


def _need(task: Task, width: int) -> int:
    return accumulator_bytes(width, task.examples.longest)


def _copy(widths: Sequence[int]) -> int:
    """The largest mean, which is made beside its sum."""
    return 4 * max(widths, default=0) ** 2


def shapes_of(task: Task) -> dict[str, tuple[int, ...]]:
    """The shapes of the Grams by the names of their weights, layer by layer.

    Raises:
        ModelError: no weight of the model can have one.
    """
    found: dict[str, tuple[int, ...]] = {
        name: (columns, columns)
        for index in range(len(task.model.layers))
        for name, columns in gram_names(task.model, task.weights, index).items()
    }
    if not found:
        raise ModelError(
            "the layers of the model hold no matrix of their own, so there are no Grams of it"
        )
    return found


def warnings_of(task: Task, model: str) -> list[str]:
    """Matrices of layers that get no Gram."""
    fused = fused_experts(task.model, task.weights)
    if not fused:
        return []
    return [
        f"{model}: {len(fused):,} tensors such as '{fused[0]}' hold the matrices of all experts "
        "together, and get no Gram: a merge averages them. Store the experts one by one to have "
        "Grams of them"
    ]
