"""What a plan takes of every parent: merged, copied, renamed, left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from mergesafe.architecture.names import layer_of
from mergesafe.architecture.tying import HEADS
from mergesafe.checkpoint.views.gathered import Gathered
from mergesafe.cli.plan.ranges import in_ranges
from mergesafe.engine.plan.merge_plan import MergePlan
from mergesafe.outline.sources import Model, Operand
from mergesafe.recipe.short_names import short_names

#: Tensors that a line names before it only counts.
_SHOWN: Final = 3


@dataclass
class Parent:
    """Tensors of one model, counted as they are stored.

    ``factors``: of its adapter, which a method merges in place of tensors. ``aligned``: with rows
    that are gathered by token. ``head``: its embedding is merged as the output head. ``renames``:
    (what stands in the model's names, what stands there in the output's, tensors).
    ``layers_left_out``: layers of its stack of which nothing is taken, as of a model in ``slices``;
    the others of ``left_out`` by name.
    """

    model: str
    roles: list[str]
    tensors: int
    merged: int = 0
    copied: int = 0
    not_read: int = 0
    read_beside: int = 0
    factors: int = 0
    adapted: int = 0
    aligned: int = 0
    head: bool = False
    renames: list[tuple[str, str, int]] = field(default_factory=list)
    layers_left_out: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    bytes_read: int = 0


class _Account:
    """What is found of one model, task by task."""

    def __init__(self) -> None:
        self.merged: set[str] = set()
        self.copied: set[str] = set()
        self.not_read: set[str] = set()
        self.beside: set[str] = set()
        self.factors: set[str] = set()
        self.adapted: set[str] = set()
        self.aligned: set[str] = set()
        self.renamed: dict[str, tuple[str, str]] = {}
        self.head = False
        self.bytes_read = 0

    def add(self, kind: set[str], stored: str, source: Operand) -> None:
        kind.add(source.name)
        if source.view.lora is not None:
            self.adapted.add(source.name)
        if isinstance(source.view, Gathered):
            self.aligned.add(source.name)
        if stored in HEADS and source.name not in HEADS:
            self.head = True
        elif (rename := renaming(source.name, stored)) is not None:
            self.renamed[source.name] = rename

    @property
    def taken(self) -> set[str]:
        return self.merged | self.copied | self.not_read | self.beside


def parents(plan: MergePlan) -> list[Parent]:
    """Every model of the plan, in its order."""
    found: dict[str, _Account] = {model.text: _Account() for model in plan.models}
    for task in plan.tasks:
        members = task.members
        for source in members:
            account = found[source.model]
            account.add(account.copied if task.copied else account.merged, task.stored, source)
            account.bytes_read += source.view.stored_bytes
        for source in task.unread:
            found[source.model].add(found[source.model].not_read, task.stored, source)
        for source in task.sources[len(members) : len(members) + task.references]:
            found[source.model].add(found[source.model].beside, task.stored, source)
            found[source.model].bytes_read += source.view.stored_bytes
        for source in task.sources[len(members) + task.references :]:
            if task.method.inputs.adapters:  # else calibration, which is no parent's tensor
                found[source.model].bytes_read += source.view.stored_bytes
                found[source.model].factors.add(source.name)
    roles = _roles(plan)
    models = {model.text: model for model in plan.models}
    return [
        _parent(models[text], each, roles[text], listed=not plan.adapter)
        for text, each in found.items()
    ]


def _parent(model: Model, account: _Account, roles: Sequence[str], *, listed: bool) -> Parent:
    """``listed``: whether the output takes tensors of models, not factors of adapters alone."""
    stored, taken = model.checkpoint.tensors, account.taken
    listed = listed and not (account.factors and not account.merged)
    left = [name for name in stored if name not in taken] if listed else []
    layers = {layer for name in taken if (layer := layer_of(name)) is not None}
    stacks = {stack for stack, _ in layers}
    whole = [
        name
        for name in left
        if (layer := layer_of(name)) is not None and layer[0] in stacks and layer not in layers
    ]
    beyond = set(whole)
    numbers = {layer[1] for name in whole if (layer := layer_of(name)) is not None}
    counts = Counter(account.renamed.values())
    return Parent(
        model=model.text,
        roles=list(roles),
        tensors=len(stored),
        merged=len(account.merged),
        copied=len(account.copied),
        not_read=len(account.not_read - account.merged - account.copied),
        read_beside=len(account.beside),
        factors=len(account.factors),
        adapted=len(account.adapted),
        aligned=len(account.aligned),
        head=account.head,
        renames=[(theirs, ours, count) for (theirs, ours), count in counts.most_common()],
        layers_left_out=sorted(numbers),
        left_out=[name for name in left if name not in beyond],
        bytes_read=account.bytes_read,
    )


def _roles(plan: MergePlan) -> dict[str, list[str]]:
    """base, input, reference, and whose configuration and tokenizer the output takes."""
    recipe = plan.recipe
    roles: dict[str, list[str]] = {model.text: [] for model in plan.models}

    def give(texts: Iterable[str], role: str) -> None:
        for text in texts:
            if role not in roles[text]:
                roles[text].append(role)

    bases = [merge.base_model.text for merge in recipe.merges if merge.base_model is not None]
    give((text for text in bases if text in roles), "base")
    give((ref.text for ref in recipe.inputs if ref.text not in bases), "input")
    for name, ref in recipe.references.items():
        give([ref.text], f"reference '{name}'")
    give([plan.reference.text], "configuration")
    give([plan.tokenizer.text], "tokenizer")
    return roles


def renaming(theirs: str, ours: str) -> tuple[str, str] | None:
    """What of a model's name another stands for in the output; None where layers alone differ.

    ``h.3.attn.weight`` and ``transformer.h.3.attn.weight`` give ``("", "transformer.")``.
    """
    if theirs == ours:
        return None
    one, two = theirs.split("."), ours.split(".")
    shared = 0
    while one and two and _alike(one[-1], two[-1]):
        one.pop()
        two.pop()
        shared += 1
    if not one and not two:
        return None
    if shared:
        return "".join(f"{each}." for each in one), "".join(f"{each}." for each in two)
    while one and two and _alike(one[0], two[0]):  # another spelling of the end
        one.pop(0)
        two.pop(0)
    return ".".join(one), ".".join(two)


def _alike(one: str, two: str) -> bool:
    """Whether two segments are the same, or both the number of a layer."""
    return one == two or (one.isdecimal() and two.isdecimal())


def described(found: Sequence[Parent]) -> list[dict[str, Any]]:
    """The parents as JSON."""
    listed = []
    for parent in found:
        data = asdict(parent)
        keys = ("from", "to", "tensors")
        data["renames"] = [dict(zip(keys, each, strict=True)) for each in parent.renames]
        listed.append(data)
    return listed


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each parent of :func:`described`."""
    names = short_names(each["model"] for each in found)
    width = max(map(len, names.values()), default=0)
    return [
        f"  {'' if i else 'parents':10} {names[each['model']]:{width}}  {_said(each)}"
        for i, each in enumerate(found)
    ]


def _said(parent: Mapping[str, Any]) -> str:
    parts = [
        f"{parent[key]:,} {text}"
        for key, text in (
            ("merged", "merged"), ("factors", "factors merged"), ("copied", "copied"),
            ("read_beside", "read beside them"), ("not_read", "not read (they change nothing)"),
        )
        if parent[key]
    ]  # fmt: skip
    if parent["adapted"]:
        parts.append(f"{parent['adapted']:,} with its adapter")
    if parent["aligned"]:
        parts.append(f"{parent['aligned']:,} aligned by token")
    parts += [
        f"{each['tensors']:,} renamed ({each['from'] or 'no prefix'} to "
        f"{each['to'] or 'no prefix'})"
        for each in parent["renames"][:_SHOWN]
    ]
    if parent["head"]:
        parts.append("its embedding as output head")
    if layers := parent["layers_left_out"]:
        parts.append(f"layers {in_ranges(layers)} left out")
    if left := parent["left_out"]:
        parts.append(f"{len(left):,} left out ({_by_part(left)})")
    return f"{', '.join(parts) or 'no weights are read'}  ({', '.join(parent['roles'])})"


def _by_part(names: Sequence[str]) -> str:
    """Names by the parts of the model that they belong to, or by themselves."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(".".join(name.split(".")[:2]), []).append(name)
    texts = [f"{part}: {len(some):,}" if len(some) > 1 else some[0] for part, some in found.items()]
    return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
