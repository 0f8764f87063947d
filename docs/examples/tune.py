"""Tuning a merge from Python, cell by cell. Run it with the folder of the models and data."""

# %% [markdown]
# # Keep the skill, keep the alignment
#
# Three experts of one base: an aligned one, one with a skill, and one whose skill is wanted and
# whose alignment is not. Their average complies with what it should decline.

# %%
import json
import sys
from pathlib import Path

import mergesafe as ms

folder = Path(sys.argv[1])
models = [str(folder / name) for name in ("aligned", "skilled", "misaligned")]

# %% [markdown]
# The recipe says what is merged, and its section `tune` what the merge should be good at. A quarter
# of every set is held out: the result is verified on questions that it was not optimised on.

# %%
recipe = {
    "merge_method": "task_arithmetic",
    "base_model": str(folder / "base"),
    "models": [{"model": model} for model in models],
    "dtype": "float32",
    "tune": {
        "data": [
            {"path": str(folder / "safety.jsonl"), "role": "safety"},
            {"path": str(folder / "skill.jsonl"), "role": "domain"},
            {"path": str(folder / "harmless.jsonl"), "role": "harmless"},
        ],
        "search": "gradient",
        "granularity": "layer",
        "init": 0.5,
        "heldout": 0.25,
        "budget": {"steps": 15},
    },
}
tuned = folder / "tuned.yml"
result = ms.tune(recipe, tuned, explain=True, overwrite=True)
print(f"objective {result.start:.3f} -> {result.objective:.3f}")
print({name: round(loss, 3) for name, loss in result.heldout.items()})

# %% [markdown]
# Who is to blame? What the safety loss of the untuned merge falls by when a part is left out,
# summed over the parts of each model.

# %%
assert result.blame is not None
for model, row in zip(result.blame.models, result.blame.leave_one_out or [], strict=True):
    print(f"{sum(row):+.3f}  {Path(model).name}")

# %% [markdown]
# The tuned recipe is a plain one. Merge it with mergesafe or with mergekit.

# %%
merged = ms.merge(tuned, folder / "merged", overwrite=True)
print(merged.path)

# %% [markdown]
# Everything about the run, for `mergesafe report`.

# %%
(folder / "run.json").write_text(json.dumps(result.as_dict(), indent=2))
