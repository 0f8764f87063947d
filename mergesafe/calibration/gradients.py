"""Numbers about every parameter from its gradient for each record, layer by layer.

``fisher``: the diagonal of the empirical Fisher information, ``F = (1/N) sum_r g_r^2`` over N
records, where g_r is the gradient of ``log p(answer | question)`` of record r, summed over the
answer's tokens (Matena and Raffel, arXiv 2111.09832, with the answers of the data as labels).

``score``: ``S = |W| (1/N) sum_r |g_r|`` where g_r is the gradient of the mean negative
log-likelihood of a token of the answer (SNIP: Lee et al., arXiv 1810.02340, as Wei et al., arXiv
2402.05162, take the mean over records).

Hidden states between layers are kept by a forward pass. Backward goes from the head to the
embedding: a layer's weights are read, what it makes of each record is computed again, and the
gradient of its input is kept for the layer before. Gradients are float32 and added up in float32.
What no record reaches, as rows of tokens that do not occur, is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import torch
from torch import nn
from torch.nn import functional

from mergesafe.calibration.output import CalibrationFolder
from mergesafe.calibration.parameters import Part
from mergesafe.calibration.states import States
from mergesafe.calibration.task import Task, embed_all
from mergesafe.errors import ModelError

Tensor = torch.Tensor

#: Bytes of a parameter's gradient and of its sum, for each element.
_TIMES: Final = 8
#: Copies of the logits: as they are, in float32, their softmax, its gradient.
_LOGITS: Final = 4


class Gradients:
    """Fills ``folder`` with numbers of ``kind``."""

    def __init__(self, task: Task, kind: str, folder: CalibrationFolder) -> None:
        self._task, self._kind, self._folder = task, kind, folder
        self._model = task.model
        self._count = len(task.ids)

    def make(self) -> None:
        """Write the numbers of all parameters.

        Raises:
            MergesafeError: the model cannot be run, or memory or disk do not suffice.
        """
        task, model = self._task, self._model
        last = len(model.layers)
        with task.states(last + 1) as states, task.states(1) as gradients:
            embed_all(task, states)
            for index in range(last):
                with self._loaded([*model.outside, *model.of_layer(index)]), torch.no_grad():
                    for record, ids in enumerate(task.ids):
                        given = self._kept(states, index, record)
                        states.put(index + 1, record, model.run(index, ids, given))
                task.progress("layers forward", index + 1, last)
            reached = self._head(states, gradients)
            for index in reversed(range(last)):
                self._layer(index, states, gradients)
                task.progress("layers backward", last - index, last)
            self._embedding(states, gradients, reached)

    # --- stages ------------------------------------------------------------------------------

    def _layer(self, index: int, states: States, gradients: States) -> None:
        names = self._model.of_layer(index)
        outside = self._model.outside

        def pass_back(
            record: int, wanted: Sequence[nn.Parameter], last: bool
        ) -> Sequence[Tensor | None]:
            x = self._kept(states, index, record).requires_grad_()
            out = self._model.run(index, self._task.ids[record], x)
            given = self._kept(gradients, 0, record)
            of_x, *found = torch.autograd.grad(out, [x, *wanted], given, allow_unused=True)
            if last:
                gradients.put(0, record, of_x)
            return found

        with self._loaded([*outside, *names]) as made:
            what = f"layer '{self._model.layers[index][0]}'"
            self._add_up(names, made, pass_back, what, loaded=names)

    def _head(self, states: States, gradients: States) -> set[str]:
        """Of the parameters behind the layers, which are the answer."""
        model = self._model
        names = [*model.outside, *([] if model.tied else [model.head])]
        reached: set[str] = set()

        def pass_back(
            record: int, wanted: Sequence[nn.Parameter], last: bool
        ) -> Sequence[Tensor | None]:
            x = self._kept(states, len(model.layers), record).requires_grad_()
            value = self._objective(record, x)
            of_x, *found = torch.autograd.grad(value, [x, *wanted], allow_unused=True)
            if last:
                gradients.put(0, record, of_x)
            return found

        loaded = [*names, *([model.embedding] if model.tied else [])]
        with self._loaded(loaded) as made:
            self._add_up(
                names, made, pass_back, "the output head", reached,
                loaded=loaded, beside=_logit_bytes(self._task),
            )  # fmt: skip
        return reached

    def _embedding(self, states: States, gradients: States, reached: set[str]) -> None:
        """The embedding, with its share as a tied head, and what else comes before the layers."""
        model, task = self._model, self._task
        rest = [name for name in model.outside if name not in reached]

        def first(record: int, wanted: Sequence[Tensor]) -> Sequence[Tensor | None]:
            if not wanted:
                return []
            out = model.embed(task.ids[record])
            given = self._kept(gradients, 0, record)
            return [*torch.autograd.grad(out, [*wanted], given, allow_unused=True)]

        with (
            self._loaded(model.outside) as made,
            model.some_rows(task.chosen, task.weights) as rows,
        ):
            named = {**made, model.embedding: rows}
            names = rest if model.tied else [*rest, model.embedding]
            self._add_up(
                names, named, lambda record, wanted, last: first(record, wanted), "the embedding",
                loaded=[], beside=4 * rows.numel(),
            )  # fmt: skip
        if model.tied:
            self._tied(states, first)

    def _tied(
        self, states: States, first: Callable[[int, Sequence[Tensor]], Sequence[Tensor | None]]
    ) -> None:
        """The embedding that is the head, too: its gradient has both shares."""
        model, task = self._model, self._task
        name = model.embedding

        def pass_back(
            record: int, wanted: Sequence[nn.Parameter], last: bool
        ) -> Sequence[Tensor | None]:
            if not wanted:
                return []
            x = self._kept(states, len(model.layers), record)
            [whole] = torch.autograd.grad(self._objective(record, x), [*wanted])
            chosen = sorted({*task.ids[record][0].tolist()})
            with model.some_rows(chosen, task.weights) as rows:
                rows.requires_grad_()
                [share] = first(record, [rows])
            assert share is not None  # the embedding of its own tokens
            whole[chosen] += share
            return [whole]

        with self._loaded([*model.outside, name]) as made:
            self._add_up(
                [name], made, pass_back, "the embedding, which is the head",
                loaded=[name], beside=_logit_bytes(task),
            )  # fmt: skip

    # --- parts -------------------------------------------------------------------------------

    def _add_up(
        self,
        names: Sequence[str],
        made: Mapping[str, nn.Parameter],
        pass_back: Callable[[int, Sequence[nn.Parameter], bool], Sequence[Tensor | None]],
        what: str,
        reached: set[str] | None = None,
        *,
        loaded: Sequence[str],
        beside: int = 0,
    ) -> None:
        """Write the numbers of parameters that are not written yet.

        ``pass_back(record, parameters, last)`` gives the gradients of a record; ``last``: for the
        last time. ``reached`` is told of the parameters that have any; others are not written then.
        ``loaded``: the parameters that are in memory, ``beside``: bytes of what else is.
        """
        parts = {name: self._parts(name, made[name]) for name in names}
        left = [
            name
            for name in names
            if reached is not None  # which these are is known from a pass
            or not self._folder.finished.issuperset(part.name for part in parts[name])
        ]
        needs = [_TIMES * made[name].numel() for name in left]
        fixed = self._task.fixed_bytes(loaded, backward=True) + beside
        shares = self._task.shares(needs, fixed, what) or [[]]
        for number, share in enumerate(shares):
            chosen = [left[i] for i in share]
            wanted = [made[name] for name in chosen]
            for parameter in wanted:
                parameter.requires_grad_()
            sums = [torch.zeros_like(each, requires_grad=False) for each in wanted]
            found = [False] * len(chosen)
            for record in range(self._count):
                with torch.enable_grad():
                    gradients = pass_back(record, wanted, number == len(shares) - 1)
                for i, gradient in enumerate(gradients):
                    if gradient is not None:
                        found[i] = True
                        self._add(sums[i], gradient)
                del gradients
            for name, parameter, total, has in zip(chosen, wanted, sums, found, strict=True):
                parameter.requires_grad_(False)
                if reached is None or has:
                    self._write(name, parts[name], parameter, total)
                if reached is not None and has:
                    reached.add(name)

    def _add(self, total: Tensor, gradient: Tensor) -> None:
        if self._kind == "fisher":
            total.addcmul_(gradient, gradient)
        else:
            total.add_(gradient.abs_())

    def _write(self, name: str, parts: Sequence[Part], value: Tensor, total: Tensor) -> None:
        total /= self._count
        if self._kind == "score":
            total *= value.detach().abs()
        if not bool(total.isfinite().all()):
            raise ModelError(
                f"'{name}': the gradients of these records are not finite, so there is no "
                f"{self._kind}; check the model with 'mergesafe vet'"
            )
        if name == self._model.embedding and not self._model.tied:
            [part], columns = parts, total.shape[1]
            for row, token in enumerate(self._task.chosen):
                self._folder.write(part.name, total[row], token * columns)
        else:
            for part in parts:
                self._folder.write(part.name, part.of(total))
        self._folder.finish([part.name for part in parts])

    def _parts(self, name: str, value: Tensor) -> tuple[Part, ...]:
        return self._task.weights.parts(name, self._model.shapes[name])

    def _objective(self, record: int, hidden: Tensor) -> Tensor:
        """log p of the answer, or the mean negative log-likelihood of its tokens."""
        row, ids = self._task.examples.rows[record], self._task.ids[record]
        first = max(row.start, 1)  # nothing predicts the first token
        positions = torch.arange(first - 1, len(row.ids) - 1, device=ids.device)
        logits = self._model.logits(ids, hidden, positions)
        loss = functional.cross_entropy(logits, ids[0, first:], reduction="none")
        return -loss.sum() if self._kind == "fisher" else loss.mean()

    def _kept(self, states: States, slot: int, record: int) -> Tensor:
        return states.get(slot, record)[None].to(self._model.device)

    def _loaded(self, names: list[str]) -> AbstractContextManager[dict[str, nn.Parameter]]:
        return self._model.loaded(names, self._task.weights)


def parameter_shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """The stored tensors of all parameters, in their order."""
    model = task.model
    return {
        part.name: part.shape
        for name in model.shapes
        for part in task.weights.parts(name, model.shapes[name])
    }


def check_memory(task: Task) -> None:
    """Refuse a budget that does not hold a layer or the head, and the gradient of one parameter.

    Raises:
        ArgumentError: it does not; says how much would.
        ModelError: the model has no output head.
    """
    model = task.model
    if not model.has_head:
        raise ModelError("the model has no output head, and so no likelihood of an answer")
    for index, (name, _) in enumerate(model.layers):
        names = model.of_layer(index)
        needs = [_TIMES * model.bytes_of([each]) // 4 for each in names]
        task.shares(needs, task.fixed_bytes(names, backward=True), f"layer '{name}'")
    head = model.embedding if model.tied else model.head
    need = _TIMES * model.bytes_of([head]) // 4
    task.shares([need], task.fixed_bytes([head]) + _logit_bytes(task), f"the head '{head}'")


def _logit_bytes(task: Task) -> int:
    """What the predictions of the longest answer take."""
    longest = max(len(row.ids) - row.start for row in task.examples.rows)
    return 4 * _LOGITS * longest * task.model.shapes[task.model.embedding][0]
