"""Runs in mergekit's Python: merges the recipes that stdin names, one in a line.

A request is ``{"recipe": ..., "out": folder}``, the answer ``{"error": null}`` or its text. To
``{}`` the answer is what this mergekit has: commands, options, keys of recipes and methods.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import distribution

# What libraries print must not come between the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import transformers  # noqa: E402
from mergekit import config  # noqa: E402
from mergekit.merge import run_merge  # noqa: E402
from mergekit.merge_methods import registry  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402


def facts() -> dict[str, object]:
    found = distribution("mergekit")
    models = (
        config.MergeConfiguration, config.OutputSliceDefinition, config.InputSliceDefinition,
        config.InputModelDefinition, config.ConditionalParameter,
    )  # fmt: skip
    return {
        "commands": [entry.name for entry in found.entry_points],
        "options": list(MergeOptions.model_fields),
        "keys": sorted({key for model in models for key in model.model_fields}),
        "methods": [method.spec.name for method in registry.registered_methods()],
        "version": found.version,
    }


transformers.logging.set_verbosity_error()
ADAPTERS = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    if not request:
        print(json.dumps(facts()), file=ANSWERS, flush=True)
        continue
    error = None
    try:
        options = MergeOptions(
            lora_merge_cache=ADAPTERS,
            copy_tokenizer=False,
            write_model_card=False,
            random_seed=0,
            quiet=True,
        )
        recipe = config.MergeConfiguration.model_validate(request["recipe"])
        run_merge(recipe, request["out"], options)
    except Exception as found:
        error = f"{type(found).__name__}: {found}"
    print(json.dumps({"error": error}), file=ANSWERS, flush=True)
