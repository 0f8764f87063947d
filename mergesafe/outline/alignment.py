"""Which tensors a merge writes, and what each input calls them.

The names of all inputs are looked at as whole sets before anything is decided. Where one set is
the other under a constant prefix, or in another spelling, it is carried over with a note; what
only some inputs have is taken from its owner, dropped with a note, or refused, by the rules of
:func:`align`. Nothing is merged that is not paired by name and shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mergesafe.architecture.cross_attention import is_cross_attention
from mergesafe.architecture.experts import expert_layout
from mergesafe.architecture.names import (
    is_counter,
    is_extra_layer,
    is_recomputed,
    is_tower,
    stem_of,
)
from mergesafe.architecture.pairing import Rule
from mergesafe.architecture.settings import class_of
from mergesafe.architecture.tying import (
    HEADS,
    embedding_of,
    head_beside,
    is_embedding,
    shared_with,
)
from mergesafe.checkpoint.format.compare import same_bytes
from mergesafe.checkpoint.format.model import Checkpoint
from mergesafe.errors import CheckpointError
from mergesafe.outline.heads import HeadPlan, headless_warning, plan_head
from mergesafe.outline.layouts import other_layout
from mergesafe.outline.naming import Named, name_alike
from mergesafe.outline.sources import Model
from mergesafe.outline.task_heads import unmerged_heads
from mergesafe.untrusted import show

#: Names that an error shows of each side.
_SHOWN: Final = 3


@dataclass(frozen=True)
class Alignment:
    """The output's tensors, and the inputs with their own names for them."""

    models: tuple[Model, ...]
    names: tuple[str, ...]
    #: Tensors that are copied from one input instead of merged.
    copied: Mapping[str, Model]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass
class _State:
    models: list[Model]
    reference: int
    names: dict[str, None]
    rules: Mapping[int, Sequence[Rule]]
    copied: dict[str, int] = field(default_factory=dict)
    #: What :func:`_spelt_otherwise` has found, by model.
    otherwise: dict[int, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def holders(self, name: str) -> list[int]:
        return [i for i, model in enumerate(self.models) if name in (model.names or ())]

    def lacking(self, name: str) -> list[int]:
        return [i for i, model in enumerate(self.models) if name not in (model.names or ())]

    def unsettled(self) -> list[str]:
        """Tensors that some input lacks, of which nothing is decided; the head comes last."""
        return [
            name for name in self.names
            if name not in HEADS and name not in self.copied and self.lacking(name)
        ]  # fmt: skip

    def texts(self, numbers: Iterable[int]) -> str:
        return ", ".join(dict.fromkeys(self.models[i].text for i in numbers))

    def shape(self, name: str) -> tuple[int, ...]:
        model = self.models[self.holders(name)[0]]
        return model.checkpoint.tensors[_names(model)[name]].shape


def align(models: Sequence[Model], reference: Model, *, whole: bool = True) -> Alignment:
    """Pair the tensors of ``models`` with those of ``reference``, whose names the output takes.

    1. Wrappers of training (``_orig_mod.``) are gone already, see :class:`Checkpoint`.
    2. A name that the reference has under another constant prefix or in another spelling is that
       tensor (:mod:`mergesafe.architecture.pairing`).
    3. Buffers that a model computes itself, and counters, are the reference's, never averaged;
       they are dropped where not every input, or not the reference, has them.
    4. An embedding that an input lacks, while another holds the same bytes under one other name
       that the input has, is an alias: the input's tensor of that name.
    5. Layers for further tokens (MTP) are their owner's. The vision and audio parts of a larger
       model are the reference's, and are left out where only others have them.
    6. The head of a task (a classifier, a pooler) that not every input has in the same shapes is
       the reference's, or left out where only others have it: :mod:`mergesafe.outline.task_heads`.
    7. Anything else that an input lacks is an error that shows both sides. Without ``whole`` it
       stays among the names, for a caller who lists what is missing.
    8. The output head: :mod:`mergesafe.outline.heads`.

    Raises:
        CheckpointError: the sets of names do not belong together.
    """
    number = next(i for i, model in enumerate(models) if model is reference)
    return settle(name_alike(models, reference), number, whole=whole)


def settle(
    named: Named,
    reference: int,
    *,
    whole: bool = True,
    heads: bool = True,
    head_of: str | None = None,
) -> Alignment:
    """Decide about every tensor of models that :func:`name_alike` has named: steps 3 to 8.

    ``reference``: its number among them. ``heads``: whether the output head is among what they
    make; ``head_of``: the embedding that it may be tied to where that is not.

    Raises:
        CheckpointError: the sets of names do not belong together.
    """
    names = dict.fromkeys(name for model in named.models for name in model.names or ())
    state = _State(
        list(named.models), reference, names, dict(enumerate(named.rules)),
        notes=list(named.notes), warnings=list(named.warnings),
    )  # fmt: skip
    _buffers(state)
    _task_heads(state)
    for name in state.unsettled():
        _partly(state, name)
    unmatched = state.unsettled()
    if unmatched and whole:
        raise _mismatch(state, unmatched)
    try:
        if heads:
            _heads(state, head_of)
    except CheckpointError:
        if whole:
            raise
    if whole:
        _refuse_changed_copies(state)
    return Alignment(
        tuple(state.models),
        tuple(state.names),
        {name: state.models[i] for name, i in state.copied.items()},
        tuple(dict.fromkeys(state.notes)),
        tuple(dict.fromkeys(state.warnings)),
    )


# --- what is not merged --------------------------------------------------------------------------


def _buffers(state: _State) -> None:
    kept: dict[str, list[str]] = {}
    for name in list(state.names):
        counter = is_counter(name)
        if not counter and not is_recomputed(name, state.shape(name)):
            continue
        holders = state.holders(name)
        whose = state.reference
        if whose in holders and (counter or len(holders) == len(state.models)):
            state.copied[name] = whose
            kept.setdefault("counters" if counter else "computed buffers", []).append(name)
            continue
        del state.names[name]
        why = "only a count" if counter else "models compute it"
        state.notes.append(f"{name} is dropped: {why}, and not every input stores it")
    for kind, names in kept.items() if len(state.models) > 1 else ():
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        text = state.models[state.reference].text
        state.notes.append(f"{kind} ({shown}) are copied from {text}, not averaged")


def _task_heads(state: _State) -> None:
    for found in unmerged_heads(state.models, state.reference, state.names):
        for name in found.dropped:
            del state.names[name]
        if found.kept:
            state.copied.update(dict.fromkeys(found.kept, state.reference))
            why = f"{state.texts(found.others)} has {found.what} part"
            _tell_copied(state, found.part, state.reference, found.holders, why)
        else:
            _tell_left_out(state, found.part, found.holders)


def _heads(state: _State, embedding: str | None) -> None:
    head = next((name for name in state.names if name in HEADS), None)
    if head in state.copied:
        return
    if head is None:
        known = state.names if embedding is None else (embedding,)
        if warning := headless_warning(known, state.models):
            state.warnings.append(warning)
        embedding = embedding_of(known)
        config = state.models[state.reference].checkpoint.config
        beside = head_beside(embedding, state.names, config) if embedding else None
        adapted = [m for m in state.models if m.adapter and beside in m.adapter.pairs]
        if beside is None or not adapted:
            return
        head = beside
        state.names[head] = None
    found: HeadPlan = plan_head(head, state.models)
    state.notes += found.notes
    state.models = list(found.models)
    if not found.written:
        del state.names[head]
        for name in found.dropped:
            del state.names[name]
    elif found.added is not None:
        state.names[found.added] = None


def _partly(state: _State, name: str) -> None:
    """Decide about a tensor that some input lacks; leave it where nothing is known of it."""
    holders, lacking = state.holders(name), state.lacking(name)
    owner = state.reference if state.reference in holders else holders[0]
    if all(_alias(state, name, i) for i in lacking):
        return
    config = state.models[owner].checkpoint.config
    crossed = owner == state.reference and is_cross_attention(name, config)
    stem = f"{stem_of(name)}."
    others = (each for i in lacking for each in state.models[i].names or ())
    if not crossed and any(each.startswith(stem) for each in others):
        return  # fewer layers or a smaller tower, not none
    if crossed or is_extra_layer(name, config):
        state.copied[name] = owner
        further = f"layers that predict further tokens ({stem_of(name)})"
        what = "layers of cross-attention" if crossed else further
        _tell_copied(state, what, owner, holders, f"{state.texts(lacking)} has no such part")
    elif _beside_text(state, name, holders, lacking):
        if any(_spelt_otherwise(state, i) for i in (*holders, *lacking)):
            return  # the same part under two names is not a part that one lacks
        if state.reference in holders:
            state.copied[name] = owner
            why = f"{state.texts(lacking)} has no such part"
            _tell_copied(state, stem_of(name), owner, holders, why)
        else:
            del state.names[name]
            _tell_left_out(state, stem_of(name), holders)


def _tell_left_out(state: _State, what: str, holders: Sequence[int]) -> None:
    reference, owner = state.models[state.reference].text, state.texts(holders[:1])
    state.warnings.append(
        f"{what} of {state.texts(holders)} is left out: {reference}, whose architecture the merged "
        "model has, has no such part. To keep it, put this merge, as a document with a name, into "
        f"{owner}: merge_method linear, {owner} first with weight 0, the document with weight 1"
    )


def _tell_copied(state: _State, what: str, owner: int, holders: Sequence[int], why: str) -> None:
    """A note; a warning where another input has the part too, which changes nothing then."""
    others = [i for i in holders if state.models[i].text != state.models[owner].text]
    text = f"{what}: copied from {state.models[owner].text}, not merged, since {why}"
    if others:
        state.warnings.append(f"{text}; that of {state.texts(others)} is left out")
    else:
        state.notes.append(text)


def _refuse_changed_copies(state: _State) -> None:
    """What is copied is copied as it is stored, so an adapter of it would be lost."""
    for name, number in state.copied.items():
        model = state.models[number]
        if model.adapter is not None and _names(model)[name] in model.adapter.pairs:
            raise CheckpointError(
                f"{model.adapter.path}: changes tensor '{name}', which is copied from {model.text} "
                f"because {state.texts(state.lacking(name))} has no such part. Merge the adapter "
                "into its base first (PEFT's merge_and_unload), and name the result."
            )


def _beside_text(state: _State, name: str, holders: Sequence[int], lacking: Sequence[int]) -> bool:
    """Whether the tensor lies beside the part that text models share with a larger one."""
    if not is_tower(name) and not any(
        rule.ours or rule.theirs for i in (*holders, *lacking) for rule in state.rules[i]
    ):
        return False
    if state.reference in holders:
        return is_tower(name) or not any(
            name.startswith(rule.ours) for i in lacking for rule in state.rules[i]
        )
    return is_tower(name) or not any(
        name.startswith(rule.theirs) for i in holders for rule in state.rules[i]
    )


def _spelt_otherwise(state: _State, number: int) -> bool:
    """Whether a model of the reference's type and the reference each have a part beside the text
    that the other lacks.
    """
    reference, model = state.models[state.reference], state.models[number]
    kinds = [each.checkpoint.config.get("model_type") for each in (reference, model)]
    if number == state.reference or kinds[0] != kinds[1] or kinds[0] is None:
        return False
    if number not in state.otherwise:
        ours, theirs = _names(reference), _names(model)
        sides = ((ours, theirs, state.reference, number), (theirs, ours, number, state.reference))
        state.otherwise[number] = all(
            any(name not in lack and _beside_text(state, name, [one], [two]) for name in have)
            for have, lack, one, two in sides
        )
    return state.otherwise[number]


def _alias(state: _State, name: str, number: int) -> bool:
    """Whether model ``number`` holds the tensor under another name.

    Of embeddings the owner's bytes say so; of these alone, since other matrices may be equal by
    chance, all zeros for example. The bias of BERT's head is known by name.
    """
    model = state.models[number]
    shared = shared_with(name)
    if shared is not None and (own := _names(model).get(shared)) is not None:
        state.models[number] = replace(model, names={**_names(model), name: own})
        return True
    if not is_embedding(name):
        return False
    for i in state.holders(name):
        owner = state.models[i]
        if owner.document is not None:  # its bytes are not there to be compared
            continue
        tensors = owner.checkpoint.tensors
        wanted = tensors[_names(owner)[name]]
        for other, stored in _names(owner).items():
            known = _names(model).get(other)
            alike = other != name and known is not None and is_embedding(other)
            if alike and known is not None and same_bytes(wanted, tensors[stored]):
                names = {**_names(model), name: known}
                state.models[number] = replace(model, names=names)
                state.notes.append(
                    f"{name}: {model.text} stores it as {other}, whose bytes {owner.text} has "
                    "under both names"
                )
                return True
    return False


# --- errors --------------------------------------------------------------------------------------


def _mismatch(state: _State, unmatched: Sequence[str]) -> CheckpointError:
    """Both sides of the first pair of inputs that do not go together."""
    name = unmatched[0]
    number, other = state.lacking(name)[0], state.holders(name)[0]
    here, there = (_names(state.models[i]) for i in (number, other))
    one, two = (state.models[i].checkpoint for i in (number, other))
    rules = [*state.rules[number], *state.rules[other]]
    unpaired = [name, *(each for each in here if each not in there)]
    layouts = (other_layout(each, [one.config, two.config]) for each in unpaired)
    mapping = f" Prefixes that were paired: {'; '.join(map(str, rules))}." if rules else ""
    return CheckpointError(
        f"{one.path}: {_missing(state, there, here, two.path)} missing here; "
        f"{_missing(state, here, there, 'this model')} missing there.{mapping} "
        f"{next(filter(None, layouts), None) or _advice(one, two)}"
    )


def _advice(one: Checkpoint, two: Checkpoint) -> str:
    kinds = [class_of(each.config) for each in (one, two)]
    if None not in kinds and kinds[0] != kinds[1]:
        return (
            f"{one.path.name} is a {kinds[0]}, {two.path.name} a {kinds[1]}: they cannot be merged."
        )
    if {expert_layout(one.tensors), expert_layout(two.tensors)} == {"separate", "fused"}:
        return (
            "One stores the experts of its layers one by one, the other as one tensor: these are "
            "the layouts of transformers 4 and 5. Load and save one of them with the version that "
            "wrote the other."
        )
    return "Every model needs the same architecture: check that the models belong together."


def _names(model: Model) -> Mapping[str, str]:
    assert model.names is not None  # paired before
    return model.names


def _missing(state: _State, have: Mapping[str, str], lack: Mapping[str, str], whose: object) -> str:
    """How many names of one side the other lacks, the first of them, and the verb."""
    names = [name for name in have if name not in lack and name in state.names]
    total = f"of the {len(have)} tensors of {whose}"
    if not names:
        return f"none {total} is"
    shown = ", ".join(show(name) for name in names[:_SHOWN])
    more = ", …" if len(names) > _SHOWN else ""
    return f"{len(names)} {total} ({shown}{more}) {'is' if len(names) == 1 else 'are'}"
