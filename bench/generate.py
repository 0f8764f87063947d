"""``python -m bench.generate MODEL [ADAPTER]``: what data generation costs on top of the model.

Two figures. *Throughput*: tokens a second of the path that every set takes (chat template, order by
length, journal, decoding) beside plain ``model.generate`` over the same prompts, in batches of the
same size, taken in turn; the answers are compared first. *A safety set*: seconds for a whole
``mergesafe generate`` of template questions, answered by MODEL and by MODEL with ADAPTER.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mergesafe
from bench.machine import describe
from bench.timing import measure, write_csv
from mergesafe.chat.conversation import Conversation, Sampling, question
from mergesafe.chat.duplicates import TextIndex
from mergesafe.chat.hf import BATCH, HfModel
from mergesafe.chat.scripted import questions, topics
from mergesafe.data.answers import Answers
from mergesafe.data.recipe import DataRecipe
from mergesafe.data.run import Run


def prompts(count: int) -> list[Conversation]:
    """Template questions, one topic after the other, so that neighbours differ in length."""
    listed = zip(*(questions(topic)[::3] for topic in topics()), strict=False)
    return [question(text) for text in itertools.islice(itertools.chain(*listed), count)]


def plain(model: HfModel, asked: list[Conversation], tokens: int) -> list[str]:
    """What one writes by hand: batches in the order of the prompts."""
    tokenizer, answers = model.tokenizer, []
    for start in range(0, len(asked), BATCH):
        batch = tokenizer.apply_chat_template(
            asked[start : start + BATCH], add_generation_prompt=True, padding=True,
            return_dict=True, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            output = model.model.generate(
                **batch, max_new_tokens=tokens, do_sample=False, temperature=None, top_p=None,
                top_k=None, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        said = output[:, batch["input_ids"].shape[1] :]
        answers += [t.strip() for t in tokenizer.batch_decode(said, skip_special_tokens=True)]
    return answers


def throughput(base: str, count: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of both, and the share of the plain loop's that ours reaches."""
    model, asked = HfModel(base), prompts(count)
    with tempfile.TemporaryDirectory() as name, Answers(Path(name)) as known:
        run = Run(DataRecipe(None, Path(), ()), known, TextIndex(1), lambda what, done, total: None)
        numbers = itertools.count()

        def ours() -> list[str]:
            # Another subject each time: the journal must not answer.
            subject = [model.identity, next(numbers)]
            said = run.respond(model, subject, asked, Sampling(tokens), "answers")
            return [each.text for each in said]

        texts = ours()
        same = sum(a == b for a, b in zip(texts, plain(model, asked, tokens), strict=True))
        if same < count / 2:  # rounding depends on what else is in a batch, more so in bfloat16
            raise SystemExit(f"only {same} of {count} answers are those of the plain loop")
        produced = sum(len(model.tokenizer(text)["input_ids"]) for text in texts)
        by_hand, by_us = measure([lambda: plain(model, asked, tokens), ours], rounds)
    return {
        "prompts": count,
        "max_new_tokens": tokens,
        "batch": BATCH,
        "same_answers": same,
        "plain_s": round(by_hand.p50, 2),
        "ours_s": round(by_us.p50, 2),
        "plain_tokens_per_s": round(produced / by_hand.p50, 1),
        "ours_tokens_per_s": round(produced / by_us.p50, 1),
        "share": round(by_hand.p50 / by_us.p50, 3),
    }


def whole_set(base: str, adapter: str | None, count: int, tokens: int) -> dict[str, Any]:
    """Seconds of one safety set, models loaded and digests taken included."""
    pool = [{"model": base, "name": "base"}]
    if adapter:
        pool.append({"model": f"{base}+{adapter}", "name": "aligned"})
    wanted = {
        "kind": "safety", "questions": {"provider": "template"}, "pool": pool, "count": count,
        "max_new_tokens": tokens, "stored_refusals": adapter is None,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        (card,) = mergesafe.generate({"sets": {"safety": wanted}}, Path(name) / "out").cards
        seconds = time.perf_counter() - began
    return {
        "questions": count,
        "max_new_tokens": tokens,
        "pool": len(pool),
        "records": card.records,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder of a chat model")
    parser.add_argument("adapter", nargs="?", help="LoRA adapter that makes it decline")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=48, help="max_new_tokens of the throughput")
    parser.add_argument("--set-tokens", type=int, default=512, help="max_new_tokens of the set")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    about = describe()
    rows: list[dict[str, object]] = []
    if args.rounds:
        found = throughput(args.model, args.prompts, args.tokens, args.rounds)
        print("throughput", *(f"{key}={value}" for key, value in found.items()), flush=True)
        rows.append({"case": "throughput", **found, **about})
    if args.questions:
        found = whole_set(args.model, args.adapter, args.questions, args.set_tokens)
        print("safety set", *(f"{key}={value}" for key, value in found.items()), flush=True)
        rows.append({"case": "safety set", **found, **about})
    print(write_csv("generate", rows))


if __name__ == "__main__":
    main()
