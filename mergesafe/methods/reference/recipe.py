"""The recipe on a method's page."""

from __future__ import annotations

from typing import Final

from mergesafe.methods.reference.cost import example_value, model_count
from mergesafe.methods.spec import MergeMethod, Scalar

#: Models of the example besides the base, as many as the method needs.
NAMES: Final = ("math", "code", "chat", "law")


def recipe_of(method: MergeMethod) -> str:
    """A recipe that says what it must, and what a user would set first."""
    takes = method.inputs
    names = list(method.example_models or NAMES[: model_count(method)])
    lines = [f"merge_method: {method.name}"]
    if takes.base == "member":
        lines.append(f"base_model: ./{names.pop(0)}")
    elif takes.base == "required":
        lines.append("base_model: ./base")
    given = [p for p in method.parameters if p.required or p.example is not None]
    each = [f"{p.name}: {_text(example_value(p))}" for p in given if p.scope != "global"]
    lines.append("models:")
    for name in names:
        place = f"./base+./{name}-adapter" if takes.adapters else f"./{name}"
        lines.append(f"  - model: {place}")
        if takes.calibration:
            # Numbers of the base beside those of a model are about the model's data.
            each_has = any(c.about == "input" for c in takes.calibration)
            whose = {"input": name, "base": f"base-on-{name}" if each_has else "base"}
            places = ", ".join(
                f"{c.name}: ./{whose[c.about]}-{c.made_by}" for c in takes.calibration
            )
            lines.append(f"    calibration: {{{places}}}")
        if each:
            lines.append(f"    parameters: {{{', '.join(each)}}}")
    if takes.references:
        lines.append("references:")
        lines += [f"  {each.name}: ./{each.name}" for each in takes.references]
    shared = [p for p in given if p.scope == "global"]
    if shared:
        lines.append("parameters:")
        lines += [f"  {p.name}: {_text(example_value(p))}" for p in shared]
    lines.append("output: adapter" if takes.adapters else "dtype: bfloat16")
    return "\n".join(lines)


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
