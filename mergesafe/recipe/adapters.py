"""What a recipe has to say where LoRA adapters are merged by their factors."""

from __future__ import annotations

from mergesafe.dtypes import CONFIG_NAMES
from mergesafe.recipe.model import Recipe
from mergesafe.recipe.nodes import Reporter, shown


def check_adapters(recipe: Recipe, report: Reporter) -> None:
    """Record every model that is no adapter of the base where the method, or the output, needs one.

    ``recipe``: of one method: one of :attr:`Recipe.merges`.
    """
    if not recipe.method.inputs.adapters or recipe.base_model is None:
        return
    base = recipe.base_model
    if base.adapter is not None:
        report.record(
            f"the base model {shown(base.text)} has an adapter; {recipe.method.name} merges "
            "adapters of one base: name the base alone",
            base.line,
        )
    for ref in recipe.inputs:
        if ref.adapter is None:
            report.record(
                f"{shown(ref.text)} is a whole model, and {recipe.method.name} merges LoRA "
                f"adapters of the base: write BASE+ADAPTER, with the base {shown(base.path)}, or "
                "merge whole models with another method",
                ref.line,
            )
        elif ref.key[0] != base.key[0]:
            report.record(
                f"{shown(ref.text)} is an adapter of {shown(ref.path)}, and the base model is "
                f"{shown(base.path)}; {recipe.method.name} merges adapters of one base",
                ref.line,
            )


def check_output(recipe: Recipe, report: Reporter) -> None:
    """Record what a recipe whose output is an adapter cannot say."""
    if recipe.output != "adapter":
        return
    line = recipe.output_line
    if recipe.slices or recipe.modules:
        key = "'slices'" if recipe.slices else "'modules'"
        report.record(
            f"'output: adapter' with {key}: an adapter has the layers and parts of its base. List "
            "the adapters under 'models'",
            line,
        )
    elif not recipe.method.inputs.adapters:
        report.record(
            "'output: adapter' is for merges of adapters by their factors, and "
            f"{recipe.method.name} merges whole tensors; use merge_method: core_space for a "
            "weighted sum, or core_space(METHOD), such as core_space(ties)",
            line,
        )
    if recipe.tokenizer_source is not None:
        report.record(
            "'tokenizer_source' is given with 'output: adapter', but an adapter has no tokenizer: "
            "it is used with that of its base. Leave it out",
            line,
        )
    if recipe.chat_template is not None:
        report.record(
            "'chat_template' is given with 'output: adapter', but an adapter is used with the "
            "tokenizer of its base. Leave it out",
            recipe.chat_template.line or line,
        )
    if recipe.encoded_dtype is not None:
        report.record(
            f"'out_dtype: {CONFIG_NAMES[recipe.encoded_dtype]}' is for the matrices of a model; an "
            "adapter takes float32, float16 or bfloat16",
            line,
        )
