"""The terms of the objective of a ``tune`` section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from mergesafe.recipe.fields import Fields, choice, one_or_more
from mergesafe.recipe.nodes import MapNode, Node, Reporter, shown
from mergesafe.tune.section.sections import MAX_WEIGHT, PENALTIES, DataSet, Role, Term

#: Term -> the roles of the sets that it is computed on; none: on the coefficients alone.
TERMS: Final[Mapping[str, tuple[Role, ...]]] = {
    "cross_entropy": ("safety", "domain", "harmless"),
    "dpo": ("preference", "harmless"),
    "orpo": ("preference", "harmless"),
    "kl": ("domain",),
    "entropy": ("unlabelled",),
    **dict.fromkeys(PENALTIES, ()),
}
#: Term -> its own options with their defaults. DPO: Rafailov et al., arXiv 2305.18290; ORPO: Hong
#: et al., arXiv 2403.07691.
OPTIONS: Final[Mapping[str, Mapping[str, float]]] = {"dpo": {"beta": 0.1}, "orpo": {"beta": 0.1}}


def read_objective(fields: Fields, data: Sequence[DataSet]) -> tuple[Term, ...]:
    """The terms under ``objective``; by default what the data are for."""
    report = fields.report
    node = fields.node.get("objective")
    if node is None:
        return _default(fields, data)
    read = [
        report.attempt(_term, each, data, report)
        for each in report.attempt(one_or_more, node, "'objective'", report) or ()
    ]
    terms: dict[str, Term] = {}
    for term in read:
        if term is None:
            continue
        if term.name in terms:
            report.record(f"'objective' has the term {shown(term.name)} twice", term.line)
        terms[term.name] = term
    if terms and all(name in PENALTIES for name in terms):
        report.record(
            f"'objective' has penalties on the coefficients alone ({', '.join(terms)}), so no data "
            "decide; add a term such as cross_entropy",
            node.line,
        )
    return tuple(terms.values())


def _default(fields: Fields, data: Sequence[DataSet]) -> tuple[Term, ...]:
    roles = {each.role for each in data}
    wanted = {
        "cross_entropy": bool(roles & {"safety", "domain"}),
        "dpo": "preference" in roles,
        "entropy": roles == {"unlabelled"},
    }
    terms = tuple(Term(name, options=OPTIONS.get(name, {})) for name in wanted if wanted[name])
    if data and not terms:
        fields.report.record(
            "'tune' has nothing to optimise: harmless questions are only measured; add a data set "
            "with another role",
            fields.line("data"),
        )
    return terms


def _term(node: Node, data: Sequence[DataSet], report: Reporter) -> Term:
    if isinstance(node, MapNode):
        name = _name(node, report)
        own = OPTIONS.get(name, {})
        fields = Fields(node, ("term", "weight", *own), f"the term '{name}'", report)
        weight = fields.number("weight", 1.0, 0.0, MAX_WEIGHT)
        options = {key: fields.number(key, default, 0.0) for key, default in own.items()}
    else:
        name = choice(node, "a term of 'objective'", tuple(TERMS), report)
        weight, options = 1.0, dict(OPTIONS.get(name, {}))
    needed = TERMS[name]
    if needed and data and not any(each.role in needed for each in data):
        raise report.error(
            f"the term {shown(name)} needs a data set with 'role: {' or '.join(needed)}'; add one "
            "under 'data'",
            node.line,
        )
    if name == "kl" and data and all(each.expert is None for each in data if each.role == "domain"):
        raise report.error(
            "the term 'kl' compares with each domain's own expert; name it: "
            "{path: ..., role: domain, expert: MODEL}",
            node.line,
        )
    return Term(name, weight, options, node.line)


def _name(node: MapNode, report: Reporter) -> str:
    term = node.get("term")
    if term is None:
        raise report.error(
            "a term of 'objective' has no 'term'; write a name, or {term: NAME, weight: W}",
            node.line,
        )
    return choice(term, "a term of 'objective'", tuple(TERMS), report)
