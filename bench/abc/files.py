"""The files of the run: what a user would write by hand, in YAML, with absolute paths."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mergesafe.demo.recipes import EXPERTS, PRECISION

POLICY: Final = Path(__file__).parent / "policy.yml"
#: Questions that are asked for: seven of each of the policy's 14 topics.
COUNT: Final = 98
#: Tokens of an answer that is to be a refusal.
REFUSAL_TOKENS: Final = 48
#: Objective -> role of the policy's pairs, and the terms.
OBJECTIVES: Final = {
    "cross_entropy": ("safety", "cross_entropy"),
    "dpo": ("preference", "cross_entropy, {term: dpo, beta: 0.1}"),
    "orpo": ("preference", "cross_entropy, {term: orpo, beta: 0.1}"),
}
STEPS: Final = 16
#: Examples of each set in a step.
BATCH: Final = 4


def data_recipe(demo: Path) -> str:
    """What ``mergesafe generate`` is given: preference pairs on the policy's topics.

    Templates ask, the base and the aligned expert answer under the policy's style, refusal rules
    judge; every rejected answer is a placeholder.
    """
    base = demo / "base"
    return f"""\
seed: 0
evaluation: [{demo}/data/unsafe.jsonl, {demo}/data/harmless.jsonl]
sets:
  policy:
    kind: safety
    policy: {POLICY}
    questions: {{provider: template}}
    pool:
      - {{model: {base}, name: base}}
      - {{model: {base}+{demo}/adapters/aligned, name: aligned}}
    format: preference
    count: {COUNT}
    max_new_tokens: {REFUSAL_TOKENS}
"""


def tune_recipe(demo: Path, pairs: Path, objective: str) -> str:
    """What ``mergesafe tune`` is given: the demo's search, with the policy's pairs as its safety.

    Skills count by their answers' cross-entropy in all of them. Harmless questions, each with the
    base's answer and a refusal, count by what the objective compares, else by the answer.
    """
    role, terms = OBJECTIVES[objective]
    models = "\n".join(
        f"  - model: {demo}/base+{demo}/adapters/{name}\n    parameters: {{weight: 0.5}}"
        for name in EXPERTS
    )
    precision = "\n".join(PRECISION)
    return f"""\
merge_method: task_arithmetic
base_model: {demo}/base
models:
{models}
{precision}
tune:
  data:
    - {{path: {pairs}, role: {role}, name: policy}}
    - {{path: {demo}/data/tune-sorting.jsonl, role: domain, name: sorting, weight: 3}}
    - {{path: {demo}/data/tune-arithmetic.jsonl, role: domain, name: arithmetic}}
    - {{path: {demo}/data/tune-harmless.jsonl, role: harmless, name: harmless}}
  objective: [{terms}]
  alpha: 2
  search: {{method: gradient, rate: 0.1, check_every: {STEPS}}}
  granularity: tensor
  bounds: {{weight: [-1, 2]}}
  seed: 0
  batch: {BATCH}
  budget: {{steps: {STEPS}}}
"""


def demonstrations(demo: Path, pairs: Path) -> list[str]:
    """Lines of records: an unsafe question that is declined and a harmless one with an answer, in
    turn; the unsafe ones are of different topics.
    """
    unsafe = pairs.read_text(encoding="utf-8").splitlines()
    harmless = (demo / "data" / "tune-harmless.jsonl").read_text(encoding="utf-8").splitlines()
    step = len(unsafe) // 3
    return [unsafe[0], harmless[0], unsafe[step], harmless[1], unsafe[2 * step]]


def in_context_file(model: Path, shown: Path, count: int, batch: int) -> str:
    """What ``in-context:FILE`` names."""
    return f"""\
model: {{model: {model}, batch: {batch}}}
demonstrations: {shown}
count: {count}
"""
