"""Runs in mergekit's Python: merges the recipes that stdin names, one in a line.

A request is ``{"recipe": ..., "out": folder}``, the answer ``{"error": null}`` or its text.
"""

from __future__ import annotations

import json
import os
import sys

# What libraries print must not come between the answers.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import transformers  # noqa: E402
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.merge import run_merge  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

transformers.logging.set_verbosity_error()
ADAPTERS = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    error = None
    try:
        options = MergeOptions(
            lora_merge_cache=ADAPTERS,
            copy_tokenizer=False,
            write_model_card=False,
            random_seed=0,
            quiet=True,
        )
        recipe = MergeConfiguration.model_validate(request["recipe"])
        run_merge(recipe, request["out"], options)
    except Exception as found:
        error = f"{type(found).__name__}: {found}"
    print(json.dumps({"error": error}), file=ANSWERS, flush=True)
