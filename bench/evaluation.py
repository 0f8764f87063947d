"""``python -m bench.evaluation MODEL``: what evaluating costs beside asking the model.

Generation: the responses that ``mergesafe evaluate`` takes, with their cache, against
``transformers`` asked plainly in batches of the same size, in turn. Cache: the whole command, first
with an empty cache and then again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import describe
from bench.timing import measure, write_csv
from mergesafe.chat.conversation import Conversation, Sampling
from mergesafe.chat.hf import HfModel
from mergesafe.safety.evaluation.cache import Cache
from mergesafe.safety.evaluation.cached import BATCHES, CachedModel
from mergesafe.safety.evaluation.sets import shipped_sets

REPEATS = 5


def plain(model: HfModel, asked: list[Conversation], tokens: int) -> list[str]:
    """As transformers' own documentation does it, in the order given."""
    import torch

    said: list[str] = []
    for begin in range(0, len(asked), model.batch):
        inputs = model.tokenizer.apply_chat_template(
            asked[begin : begin + model.batch], add_generation_prompt=True, padding=True,
            return_tensors="pt", return_dict=True,
        )  # fmt: skip
        with torch.inference_mode():
            output = model.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        width = inputs["input_ids"].shape[1]
        said += model.tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)
    return [each.strip() for each in said]


def ours(model: HfModel, asked: list[Conversation], tokens: int) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="mergesafe-bench-") as folder:
        cached = CachedModel(model, Cache(Path(folder)), BATCHES * model.batch)
        return [each.text for each in cached.respond(asked, Sampling(tokens))]


def generation(model: HfModel, asked: list[Conversation], tokens: int, rounds: int) -> list[float]:
    """Median seconds of the plain way and of ours; says how many responses are equal."""
    equal = sum(
        a == b for a, b in zip(plain(model, asked, tokens), ours(model, asked, tokens), strict=True)
    )
    print(f"{equal} of {len(asked)} responses are equal (other batches round otherwise)")
    assert equal >= 0.9 * len(asked)
    timings = measure(
        [lambda: plain(model, asked, tokens), lambda: ours(model, asked, tokens)], rounds
    )
    return [timing.p50 for timing in timings]


def command_seconds(model: str, tokens: int, batch: int) -> list[float]:
    """Seconds of the command with an empty cache, and the median of several with a full one."""
    taken = []
    with tempfile.TemporaryDirectory(prefix="mergesafe-bench-") as folder:
        command = [
            sys.executable, "-m", "mergesafe.cli", "evaluate", model, "--cache", folder, "--quiet",
            "--max-new-tokens", str(tokens), "--batch", str(batch),
        ]  # fmt: skip
        for _ in range(1 + REPEATS):
            started = time.perf_counter()
            subprocess.run(command, check=True)
            taken.append(time.perf_counter() - started)
    return [taken[0], sorted(taken[1:])[REPEATS // 2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    about = describe()
    model = HfModel(args.model, batch=args.batch)
    asked = [record.conversation for each in shipped_sets() for record in each.records]
    by_plain, by_ours = generation(model, asked, args.tokens, args.rounds)
    first, again = command_seconds(args.model, args.tokens, args.batch)
    print(f"{len(asked)} responses of at most {args.tokens} tokens, batch {args.batch}")
    print(f"plain generate  {by_plain:.2f} s")
    print(f"evaluate's      {by_ours:.2f} s, {by_plain / by_ours:.0%} of the plain throughput")
    print(f"the command     {first:.2f} s, again {again:.2f} s: {first / again:.0f} times as fast")
    row: dict[str, object] = {
        "responses": len(asked), "tokens": args.tokens, "batch": args.batch,
        "plain_s": round(by_plain, 2), "evaluate_s": round(by_ours, 2),
        "command_s": round(first, 2), "command_again_s": round(again, 3), **about,
    }  # fmt: skip
    print(write_csv("evaluation", [row]))


if __name__ == "__main__":
    main()
