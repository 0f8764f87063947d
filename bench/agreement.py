"""How far two merged checkpoints are apart."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open


def tensors_of(folder: Path) -> dict[str, Path]:
    """Tensor name -> shard."""
    where = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            where.update(dict.fromkeys(file.keys(), shard))
    return where


def disagreement(ours: Path, theirs: Path) -> str:
    """Share of elements further apart than a rounding of the tensor's scale, and the mean error.

    Rounding to bfloat16 twice and deciding ties at the threshold differently both show up here, so
    the figure is reported, and an implausible one (more than 2 % of the elements) is an error.
    """
    a, b = tensors_of(ours), tensors_of(theirs)
    if a.keys() != b.keys():
        raise AssertionError(f"the outputs hold different tensors: {sorted(a.keys() ^ b.keys())}")
    apart = elements = 0
    for name in a:
        with safe_open(a[name], "pt") as x, safe_open(b[name], "pt") as y:
            left, right = x.get_tensor(name).float(), y.get_tensor(name).float()
        scale = right.abs().max()
        apart += int(((left - right).abs() > scale / 128).sum())
        elements += left.numel()
    share = apart / elements
    if share > 0.02:
        raise AssertionError(f"{share:.1%} of the elements differ by more than 1/128 of the scale")
    return f"{share:.2e} of elements differ by over 1/128 of the tensor's maximum"
