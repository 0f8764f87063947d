"""``python -m bench.transplant WORK``: the demo's model under other tokenizers.

Donors:

* ``llama2``: Llama 2's tokenizer, 32,000 tokens of SentencePiece, with the vectors of 256 numbers
  that the package wordllama (0.4.0.post1, which pip downloads) ships for them;
* ``own``: byte-level BPE of 8,000 tokens, trained on this repository's Python files and pages but
  for every tenth, with vectors of 256 numbers from how often tokens occur within two of each other
  there (positive pointwise mutual information, truncated SVD);
* ``itself``: the demo's model, and the model that is given its tokenizer is the demo's without
  every 24th token: what a donor gives whose rows say just what the model's do.

Every method makes a model of each, and the bits per byte of the held-out files say what is left of
it. ``--mergekit PYTHON`` has tokensurgeon do the same with the same files. The files are those of
the commit :data:`TEXTS`, whatever is checked out; every row is made anew, by one commit. A row of
the CSV has processor seconds of the command and its peak memory.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bench.bench_merge import run
from bench.machine import describe
from bench.timing import write_csv
from mergesafe.demo.base import prepare_base

ROOT: Final = Path(__file__).resolve().parents[1]
#: The commit whose files are the text.
TEXTS: Final = "0bd7b20c"
WORDLLAMA: Final = "wordllama==0.4.0.post1"
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
METHODS: Final = ("omp", "subword", "mean", "zero")
SIZE: Final = 256
#: Tokens of a window of text that is measured, each after the token that begins a text.
WINDOW: Final = 512


def texts() -> tuple[list[str], list[str]]:
    """Text to train on, and every tenth file, held out; in an order of their own."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", TEXTS, "docs", "mergesafe"],
        cwd=ROOT, check=True, capture_output=True,
    ).stdout  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = [name for name in sorted(archive.getnames()) if name.endswith((".md", ".py"))]
        random.Random(0).shuffle(names)
        files = [archive.extractfile(name) for name in names]
        read = [file.read().decode() for file in files if file is not None]
    return [text for n, text in enumerate(read) if n % 10], read[::10]


def wordllama(folder: Path) -> Path:
    """The package's wheel, unpacked: what it holds is read, none of it is run."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder),
         WORDLLAMA],
        check=True,
    )  # fmt: skip
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def own_donor(folder: Path, train: Sequence[str]) -> None:
    """A tokenizer and vectors of this repository's text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(train, trainer)
    count = tokenizer.get_vocab_size()
    pairs = np.zeros((count, count))
    for text in train:
        ids = np.array(tokenizer.encode(text).ids)
        for distance in (1, 2):
            np.add.at(pairs, (ids[:-distance], ids[distance:]), 1)
    pairs += pairs.T
    share = pairs.sum(0) / pairs.sum()
    expected = np.outer(share, share) * pairs.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.nan_to_num(np.maximum(np.log(pairs / expected), 0), posinf=0.0)
    torch.manual_seed(0)
    left, values, _ = torch.svd_lowrank(torch.from_numpy(gain).float(), q=SIZE, niter=3)
    save_donor(folder, json.loads(tokenizer.to_str()), left * values.sqrt(), "<|im_start|>", 1,
               "<|im_end|>", 2, "PreTrainedTokenizerFast")  # fmt: skip


def llama2_donor(folder: Path, wordllama: Path) -> None:
    """The tokenizer and the vectors of wordllama."""
    tokens = json.loads(
        (wordllama / "wordllama/tokenizers/l2_supercat_tokenizer_config.json").read_text()
    )
    vectors = load_file(wordllama / "wordllama/weights/l2_supercat_256.safetensors")
    content = {**tokens, "padding": None, "truncation": None}
    save_donor(folder, content, vectors["embedding.weight"], "<s>", 1, "</s>", 2, "LlamaTokenizer")


def without_tokens(base: Path, folder: Path) -> None:
    """The model without every 24th token that is neither special nor a byte."""
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    order = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    special = {each["id"] for each in tokenizer["added_tokens"]}
    kept = [(word, old) for word, old in order
            if old in special or len(word) == 1 or old % 24 != 0]  # fmt: skip
    words = {word for word, _ in kept}
    numbers = {old: new for new, (_, old) in enumerate(kept)}
    pairs = [each if isinstance(each, list) else each.split(" ", 1)
             for each in tokenizer["model"]["merges"]]  # fmt: skip
    tokenizer["model"]["vocab"] = {word: new for new, (word, _) in enumerate(kept)}
    tokenizer["model"]["merges"] = [each for each in pairs if {*each, "".join(each)} <= words]
    for each in tokenizer["added_tokens"]:
        each["id"] = numbers[each["id"]]
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    config = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": len(kept)}))
    tensors = load_file(base / "model.safetensors")
    name = "model.embed_tokens.weight"
    tensors[name] = tensors[name][[old for _, old in kept]].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_donor(
    folder: Path, tokenizer: dict[str, Any], vectors: torch.Tensor, bos: str, bos_id: int, eos: str,
    eos_id: int, kind: str,
) -> None:  # fmt: skip
    """A checkpoint of an embedding and little else, which both programs read."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    unknown = "<unk>" if bos == "<s>" else SPECIAL[0]
    settings = {"tokenizer_class": kind, "bos_token": bos, "eos_token": eos, "unk_token": unknown}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": SIZE,
        "intermediate_size": SIZE, "num_hidden_layers": 0, "num_attention_heads": 4,
        "num_key_value_heads": 4, "vocab_size": len(vectors), "tie_word_embeddings": True,
        "bos_token_id": bos_id, "eos_token_id": eos_id, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {"model.embed_tokens.weight": vectors.contiguous(),
               "model.norm.weight": torch.ones(SIZE, dtype=vectors.dtype)}  # fmt: skip
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def bits_per_byte(folder: Path, held: Sequence[str]) -> tuple[int, float]:
    """Tokens of the text, and the model's bits for each of its bytes, in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin, nats, tokens = model.config.bos_token_id, 0.0, 0
    for text in held:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for at in range(0, len(ids), WINDOW):
            row = torch.tensor([[begin, *ids[at : at + WINDOW]]])
            with torch.inference_mode():
                scores = model(row).logits[0, :-1].log_softmax(-1)
            nats -= float(scores.gather(1, row[0, 1:, None]).sum())
            tokens += row.shape[1] - 1
    return tokens, nats / math.log(2) / sum(len(text.encode()) for text in held)


def commands(
    base: Path, donor: Path, work: Path, name: str, mergekit: Path | None, memory: str
) -> Iterator[tuple[str, str, Path, list[str]]]:
    """(program, method, output, command) of every model to make."""
    ours = Path(sys.executable).with_name("mergesafe")
    for method in METHODS:
        out = work / f"{name}-{method}"
        yield "mergesafe", method, out, [
            str(ours), "transplant-tokenizer", str(base), str(donor), str(out), "--method", method,
            "--memory", memory, "--overwrite", "--quiet",
        ]  # fmt: skip
    for method in METHODS[:2] if mergekit is not None else ():
        out = work / f"{name}-mergekit-{method}"
        script = "from mergekit.scripts.tokensurgeon import main; main()"
        yield "tokensurgeon", method, out, [
            str(mergekit), "-c", script, str(base), str(donor), str(out), "-a", method, "-k", "64"
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="of mergekit 0.1.5")
    parser.add_argument("--memory", default="512MiB")
    parser.add_argument("--held", type=int, default=4_000, help="least bytes of held-out text")
    options = parser.parse_args()
    work: Path = options.work.resolve()
    work.mkdir(parents=True)
    base = prepare_base(work / "base")
    train, every = texts()
    held: list[str] = []
    while sum(len(text.encode()) for text in held) < options.held:
        held.append(every[len(held)])
    pairs = {"own": (base, work / "own"), "itself": (work / "less", base),
             "llama2": (base, work / "llama2")}  # fmt: skip
    own_donor(pairs["own"][1], train)
    without_tokens(base, pairs["itself"][0])
    llama2_donor(pairs["llama2"][1], wordllama(work / "wordllama"))
    rows: list[dict[str, object]] = []
    about = describe()  # once: the checkout may change while this runs

    def add(donor: str, program: str, method: str, out: Path, command: list[str]) -> None:
        cost: dict[str, object] = {}
        if command:
            done = run(command)
            cost = {"cpu_s": round(done.cpu, 1), "wall_s": round(done.wall, 1),
                    "peak_mib": done.peak >> 20}  # fmt: skip
        tokens, bits = bits_per_byte(out, held)
        row = {"donor": donor, "program": program, "method": method}
        rows.append({**row, "tokens": tokens, "bits_per_byte": round(bits, 3), **cost, **about})
        print(rows[-1], flush=True)
        if out != base:
            shutil.rmtree(out)

    add("none", "", "", base, [])
    for name, (model, donor) in pairs.items():
        for program, method, out, command in commands(
            model, donor, work, name, options.mergekit, options.memory
        ):
            add(name, program, method, out, command)
    print(write_csv("transplant", rows))


if __name__ == "__main__":
    main()
