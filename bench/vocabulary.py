"""``python -m bench.vocabulary WORK``: what it costs to merge models by token.

TIES of a base and two experts in bfloat16, 266 M parameters each, with tied embeddings of 128,256
rows and a tokenizer.json of byte-level BPE with as many merges, 9 MB as Llama 3's has:

* ``plain``: one tokenizer; no key in the recipe, so that no row moves;
* ``added``: the first expert has two tokens more; ``tokenizer_source: union``;
* ``shuffled``: the second expert gives the same tokens other ids at random; ``union``;
* ``third``: a third of the second expert's tokens are its own, and all its ids are at random:
  the union has a third more rows, which every model has to give and which are merged, too;
* ``larger``: as ``plain``, with as many rows as ``third`` writes.

``added`` and ``shuffled`` do the work of ``plain`` and move rows, ``third`` does that of
``larger``. The commands run in turn; a row of the CSV has seconds of the clock and of the
processor of one command, start included. WORK should be a file system in memory (3.5 GB).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.bench_merge import Run, run
from bench.machine import compile_package, describe
from bench.make_models import Shape, make_models
from bench.timing import percentiles, write_csv
from mergesafe.tokenizer.vocabulary import LETTERS

ROWS: Final = 128_256
ADDED: Final = ("<|im_start|>", "<|im_end|>")
#: Letters of the longest token.
LONGEST: Final = 14
MODELS: Final = ("base", "expert1", "expert2")
#: What a case is compared with.
COMPARED: Final = {"added": "plain", "shuffled": "plain", "third": "larger"}
SHAPE: Final = Shape(
    layers=12, hidden=1024, intermediate=2816, heads=16, kv_heads=4, vocabulary=ROWS, tied=True
)
MIB: Final = 1 << 20


def words(count: int, begin: Sequence[str], seed: int) -> list[str]:
    """Tokens of byte-level BPE: each is two earlier ones."""
    drawn, found, known = random.Random(seed), [*begin], {*begin}
    while len(found) < count:
        word = found[drawn.randrange(len(found))] + found[drawn.randrange(len(found))]
        if len(word) <= LONGEST and word not in known:
            found.append(word)
            known.add(word)
    return found


def merges(found: Sequence[str]) -> list[str]:
    """Of every token the first way to put it together, in the order of the tokens."""
    known = set(found)
    cuts = ([(word[:n], word[n:]) for n in range(1, len(word))] for word in found)
    pairs = (next((cut for cut in each if known.issuperset(cut)), None) for each in cuts)
    return [" ".join(pair) for pair in pairs if pair is not None]


def save_tokenizer(
    folder: Path, ids: Mapping[str, int], pairs: Sequence[str], added: Mapping[str, int]
) -> None:
    """tokenizer.json with ``ids`` of ordinary and ``added`` of special tokens."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}  # fmt: skip
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [{"id": n, "content": t, **flags, "special": True}
                         for t, n in added.items()],
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                  "vocab": ids, "merges": pairs},
    }  # fmt: skip
    # Indented as the publisher's file is.
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def numbered(found: Sequence[str], shuffled: bool = False) -> dict[str, int]:
    """Token -> id, in order or at random."""
    ids = [*range(len(found))]
    if shuffled:
        random.Random(1).shuffle(ids)
    return {word: ids[n] for n, word in enumerate(found)}


def make_cases(work: Path) -> dict[str, Path]:
    """Write the models; the recipe of every case."""
    ordinary = ROWS - len(ADDED)
    common = words(ordinary, LETTERS, seed=0)
    own = words(ordinary, common[: ordinary * 2 // 3], seed=2)
    pairs, others = merges(common), merges(own)
    union = len({*common, *own}) + len(ADDED)
    weights = {
        rows: make_models(
            work / f"{rows} rows",
            Shape(**{**vars(SHAPE), "vocabulary": rows}), experts=2, shards=1, seed=0,
        )
        for rows in (ROWS, union)
    }  # fmt: skip
    here, more = numbered(common), dict(zip(ADDED, (ordinary, ordinary + 1), strict=True))
    first: dict[str, tuple[dict[str, int], list[str], dict[str, int]]] = {
        "base": (here, pairs, {}), "expert1": (here, pairs, more), "expert2": (here, pairs, {})
    }  # fmt: skip
    alike = dict.fromkeys(MODELS, first["expert1"])
    cases = {
        "plain": (ROWS, alike),
        "added": (ROWS, first),
        "shuffled": (ROWS, {**first, "expert2": (numbered(common, True), pairs, {})}),
        "third": (ROWS, {**first, "expert2": (numbered(own, True), others, {})}),
        "larger": (union, alike),
    }
    recipes = {}
    for case, (rows, tokenizers) in cases.items():
        folders = []
        for source, (name, tokenizer) in zip(weights[rows], tokenizers.items(), strict=True):
            folder = work / case / name
            folder.mkdir(parents=True)
            for file in source.iterdir():
                (folder / file.name).hardlink_to(file)
            save_tokenizer(folder, *tokenizer)
            folders.append(folder)
        recipes[case] = work / f"{case}.yml"
        recipes[case].write_text(recipe(folders, case in COMPARED))
    return recipes


def recipe(folders: Sequence[Path], union: bool) -> str:
    """TIES of the folders."""
    base, *experts = folders
    lines = ["merge_method: ties", f"base_model: {base}", "dtype: bfloat16", "models:"]
    for model in experts:
        lines.append(f"  - {{model: {model}, parameters: {{weight: 0.5, density: 0.5}}}}")
    if union:
        lines.append("tokenizer_source: union")
    return "\n".join(lines) + "\n"


def row(case: str, command: str, done: Sequence[Run]) -> dict[str, object]:
    """A row of the CSV."""
    wall = percentiles([each.wall for each in done])
    return {
        "case": case, "command": command, "rounds": len(done), "p20_s": round(wall.p20, 2),
        "p50_s": round(wall.p50, 2), "p80_s": round(wall.p80, 2),
        "cpu_s": round(percentiles([each.cpu for each in done]).p50, 2),
        "least_cpu_s": round(min(each.cpu for each in done), 2),
        "peak_MiB": round(max(each.peak for each in done) / MIB), **describe(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compile_package()
    work: Path = options.work.resolve() / "vocabulary"
    if not (work / "recipes.json").exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        made = {case: str(path) for case, path in make_cases(work).items()}
        (work / "recipes.json").write_text(json.dumps(made))
    recipes: dict[str, str] = json.loads((work / "recipes.json").read_text())
    program, out = [sys.executable, "-m", "mergesafe.cli"], work / "out"
    runs: dict[tuple[str, str], list[Run]] = {}
    for _ in range(options.rounds):
        for case, path in recipes.items():
            commands = {"plan": ["plan", path], "merge": ["merge", path, str(out)]}
            for command, arguments in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                done = run([*program, *arguments, "--quiet"])
                runs.setdefault((case, command), []).append(done)
    shutil.rmtree(out)
    rows = [row(case, command, done) for (case, command), done in runs.items()]
    known = {(each["case"], each["command"]): each for each in rows}
    for each in rows:
        ratio = ""
        if (compared := COMPARED.get(str(each["case"]))) is not None:
            other = known[compared, each["command"]]
            keys = ("p50_s", "least_cpu_s")
            parts = (float(str(each[key])) / float(str(other[key])) for key in keys)
            ratio = "x{:.2f} wall, x{:.2f} least cpu of {}".format(*parts, compared)
        print(
            f"{each['case']:<9} {each['command']:<6} {each['p50_s']:>6} s  cpu {each['cpu_s']:>6} "
            f"s  least {each['least_cpu_s']:>6} s  {each['peak_MiB']:>5} MiB  {ratio}"
        )
    print(write_csv("vocabulary", rows))


if __name__ == "__main__":
    main()
