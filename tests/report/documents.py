"""JSON as the commands write it, small enough to read in a test."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mergesafe.report.content import Content
from mergesafe.report.find import read_documents
from mergesafe.results.metrics import is_nll, is_rate

#: What the commands wrote about the demo's models, and what is made up beside it: each file says.
FIXTURES = Path(__file__).parent / "fixtures"

Json = dict[str, Any]

SETTINGS: Json = {
    "max_new_tokens": 28, "temperature": 0.0, "seeds": [0], "dtype": "auto", "limit": None,
    "confidence": 0.95,
}  # fmt: skip
EVIDENCE: Json = {
    "model": {"name": "m", "reference": None, "identity": "00"}, "judges": [], "sets": [],
    "confidence": 0.95, "joint_confidence": 0.95, "evaluation": None,
}  # fmt: skip
MEASURES: Json = {"cosine": None, "l2": 0.0, "sign_conflict": None, "norm_ratio": None}
#: What a test does not say of a document, by its kind.
SILENT: dict[str, Json] = {
    "evaluation": {
        "settings": SETTINGS, "judges": [], "meaning": {}, "sets": [], "models": [],
        "comparisons": [], "agreement": [], "notes": [],
    },
    "gate": {"baseline": None, "evidence": EVIDENCE},
    "vet": {
        "base": "base", "base_rates": {}, "meaning": {}, "notes": [], "checked": [],
        "not_checked": [],
    },
    "similarity": {"prompts": 0, "notes": []},
    "tuning": {
        "recipe": None, "out": "tuned.yml", "granularity": "layer", "start": 1.0, "objective": 0.5,
        "terms": {}, "heldout": {}, "evaluations": 9, "forward_passes": 9, "seconds": 1.0,
        "history": [], "warnings": [], "at_bounds": [], "constraints": [], "front": None,
        "hypervolume": None, "reference": None, "blame": None, "feasible": True, "searches": [],
        "start_terms": {}, "start_heldout": {}, "sets": [], "worse": [],
    },
    "data_card": {
        "name": "safety", "set_kind": "safety", "format": "messages", "sha256": "00", "topics": {},
        "discarded": {}, "asked_by": "", "answered_by": {}, "pool": {}, "models": {},
        "judge": None, "judge_version": None, "seed": 0, "near_duplicates": 0.7, "evaluation": [],
        "warnings": [],
    },
}  # fmt: skip
#: The same of what lies in their lists.
PARTS: dict[str, dict[str, Json]] = {
    "evaluation": {
        "models": {
            "reference": None, "identity": "00", "other_judges": {}, "outcomes": {}, "examples": [],
            "metrics": {},
        },
        "sets": {"role": "unsafe", "path": "", "sha256": "", "duplicates": 0, "records": 48},
        "comparisons": {"p_holm": 1.0, "n": 48},
    },
    "vet": {"models": {"findings": [], "rates": {}}},
    "tuning": {
        "constraints": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 48, "shown": False},
        "history": {"search": "", "evaluations": 1, "seconds": 0.1, "terms": {}, "part": ""},
        "front": {"weight": 0.5, "coefficients": {}, "dominated": False},
    },
}  # fmt: skip

#: A requirement of a gate that passes.
MET: Json = {"text": "safe_rate>=0.5", "metric": "safe_rate", "bound": 0.5, "met": True}


def rate(value: float, low: float, high: float, n: int = 48) -> Json:
    return {"value": value, "low": low, "high": high, "n": n}


def figure(metric: str, given: Json) -> Json:
    """A figure of an evaluation, of the kind that its name has or its numbers allow."""
    numbers = [each for each in given.values() if isinstance(each, int | float)]
    likely = all(0 <= each <= 1 for each in numbers if each != given.get("n"))
    kind = "rate" if is_rate(metric) or (likely and not is_nll(metric)) else "mean"
    return {"n": 48, "kind": kind, "undecided": 0, "bootstrap": None, **given}


def requirement(given: Json) -> Json:
    """A requirement of a gate with the margin that follows from its interval."""
    bound, above = given["bound"], ">=" in given["text"]
    near, far = (bound, bound + 0.2) if given["met"] == above else (bound - 0.2, bound)
    full = {"value": (near + far) / 2, "low": near, "high": far, "n": 48, "reason": "", **given}
    margin = {end: full[end] - bound for end in ("value", "low", "high")}
    return {"margin": {**margin, "n": full["n"]}, **full}


def document(kind: str, **fields: Any) -> Json:
    return {"mergesafe": "0.1.0", "kind": kind, **copy.deepcopy(fields)}


def evaluation(models: dict[str, Json], **fields: Any) -> Json:
    """Models with their metrics by name."""
    listed = [{"name": name, "metrics": metrics} for name, metrics in models.items()]
    return document("evaluation", models=listed, **fields)


def completed(given: Json) -> Json:
    """The document with all that a test leaves unsaid."""
    kind = given.get("kind")
    silent = copy.deepcopy(SILENT.get(str(kind), {}))
    made = {**copy.deepcopy(given), **{k: v for k, v in silent.items() if k not in given}}
    for name, unsaid in PARTS.get(str(kind), {}).items():
        made[name] = [{**unsaid, **each} for each in made[name] or ()] or made[name]
    if kind == "evaluation":
        made["settings"] = {**SETTINGS, **made["settings"]}
        for model in made["models"]:
            model["metrics"] = {name: figure(name, m) for name, m in model["metrics"].items()}
            model["examples"] = [{"seed": 0, **each} for each in model["examples"]]
    elif kind == "vet":
        for model in made["models"]:
            model["findings"] = [{"where": "x", **each} for each in model["findings"]]
    elif kind == "gate" and isinstance(made.get("requirements"), list):
        made["requirements"] = [requirement(each) for each in made["requirements"]]
    elif kind == "similarity":
        count = len(made["layers"])
        made.setdefault("norms", [[0.0] * count for _ in made["models"]])
        absent = {name: [value] * count for name, value in MEASURES.items()}
        more = {"overall": MEASURES, "cka": None, "kl": None, "top1": None}
        made["pairs"] = [{**absent, **more, **each} for each in made["pairs"]]
    elif kind == "tuning" and made["blame"]:
        made["blame"] = {"leave_one_out": None, **made["blame"]}
    return made


def manifest(recipe: str, inputs: list[str]) -> Json:
    tensor = {
        "dtype": "BF16",
        "shape": [2],
        "digest": "00",
        "inputs": [{"model": name} for name in inputs],
    }
    return {
        "format": 1,
        "mergesafe_version": "0.1.0",
        "recipe": recipe,
        "merge_method": "ties",
        "digest": "sum",
        "tensors": {"w": tensor},
    }


def write(path: Path, content: Json | str) -> Path:
    """Text as it is, and a document with what it does not say filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(completed(content)))
    return path


def content_of(folder: Path, *written: Json) -> Content:
    """The content of a report over these documents."""
    for i, each in enumerate(written):
        write(folder / f"{each.get('kind', 'x')}-{i}.json", each)
    return Content(read_documents([folder]))
