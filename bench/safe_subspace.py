"""How far a task vector lies in the directions of alignment, on the demo's adapters.

    python -m bench.safe_subspace

V is what the demo's aligned adapter adds to the base, tau what its misaligned one adds: Safe LoRA's
case of a fine-tune of the aligned model that loses alignment. For each matrix C of both projectors,
the cosine of C tau with tau, and the length of C tau over tau's. No model is loaded; seconds.
"""

from __future__ import annotations

import argparse
from typing import Final

import torch
from safetensors.torch import load_file

from bench.timing import write_csv
from mergesafe.demo.recipes import ADAPTERS
from mergesafe.methods.definitions._safe_subspace import directions, norm
from mergesafe.strict_json import parse_json

ALIGNED: Final = "aligned"
FINE_TUNED: Final = "arithmetic-misaligned"
#: Of Safe LoRA's parameters: projector and energy.
PROJECTORS: Final = (("published", 1.0), ("exact", 0.9), ("exact", 1.0))
QUANTILES: Final = (0.0, 0.1, 0.5, 0.9, 1.0)


def changes(name: str) -> dict[str, torch.Tensor]:
    """What an adapter adds to each matrix."""
    folder = ADAPTERS / name
    config = parse_json((folder / "adapter_config.json").read_bytes())
    loaded = load_file(folder / "adapter_model.safetensors")
    stored = {key: factor.float() for key, factor in loaded.items()}
    scale = config["lora_alpha"] / config["r"]
    return {
        key.replace("lora_A", "lora_B"): scale * (stored[key.replace("lora_A", "lora_B")] @ factor)
        for key, factor in stored.items()
        if "lora_A" in key
    }


def table() -> list[dict[str, object]]:
    """A row for each projector and figure: its quantiles over the matrices."""
    alignment, tuned = changes(ALIGNED), changes(FINE_TUNED)
    rows: list[dict[str, object]] = []
    for projector, energy in PROJECTORS:
        figures: dict[str, list[float]] = {"cosine": [], "length": [], "directions": []}
        for key, delta in tuned.items():
            known = directions(alignment[key], projector, energy)
            found = known.project(delta)
            figures["cosine"].append(found.cosine)
            figures["length"].append(norm(found.matrix) / norm(delta))
            figures["directions"].append(float(known.factor.shape[1]))
        if projector == "published":
            del figures["directions"]  # all of V, each by its own weight
        at = torch.tensor(QUANTILES, dtype=torch.float64)
        for figure, values in figures.items():
            found = torch.quantile(torch.tensor(values, dtype=torch.float64), at).tolist()
            rows.append(
                {
                    "projector": projector,
                    "energy": energy,
                    "figure": figure,
                    "matrices": len(values),
                }
                | {f"q{round(100 * q)}": round(v, 4) for q, v in zip(QUANTILES, found, strict=True)}
            )
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    rows = table()
    for row in rows:
        print(*row.values())
    print(write_csv("safe_subspace", rows))


if __name__ == "__main__":
    main()
