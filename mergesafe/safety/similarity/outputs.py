"""What models make of the same prompts: hidden states and next-token distributions.

Every model is given the same token ids, by the tokenizer and chat template of the base (or of the
first model that has a template), as the merged model will be. One model is in memory at a time;
its distributions wait in a temporary file, its hidden states as one Gram matrix a layer.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.chat.conversation import Conversation
from mergesafe.chat.hf import MAX_TOKENS, HfModel
from mergesafe.chat.tokens import encode_prompt, padded
from mergesafe.errors import ModelError
from mergesafe.recipe.model import ModelRef
from mergesafe.safety.evaluation.sets import read_set
from mergesafe.safety.similarity.cka import centred_gram, linear_cka
from mergesafe.safety.similarity.leave_one_out import mean_merges
from mergesafe.safety.similarity.measures import pairs
from mergesafe.safety.similarity.result import PairOutputs, Similarity
from mergesafe.safety.similarity.statistics import Options

if TYPE_CHECKING:
    import torch


#: Token positions that are compared; a Gram matrix of so many takes 1 MiB a layer and model.
POSITIONS: Final = 512
#: Prompts at a time: their logits take this many times length times vocabulary.
_BATCH: Final = 8
#: Positions whose distributions are compared at a time.
_ROWS: Final = 32
_EMBEDDINGS: Final = ("embed_tokens", "wte", "embed_in")


def with_outputs(
    found: Similarity,
    refs: Sequence[ModelRef],
    prompts: Path,
    device: str,
    merging: Options | None,
    tell: Callable[[str], None],
) -> Similarity:
    """``found`` with the outputs of every pair; ``refs``: the base, then the models.

    ``merging``: how merges that leave one model out are made; None for no such merges.

    Raises:
        DataError: the prompts cannot be read.
        ModelError: a model or a merge cannot be run, or no model has a chat template.
    """
    asked = [each.conversation for each in read_set("prompts", "harmless", prompts).records]
    models = [HfModel(ref, device=device) for ref in refs]
    ids = _encode(models, asked)
    with tempfile.TemporaryDirectory(prefix="mergesafe-") as folder:
        kept = []
        for number in range(1, len(models)):
            tell(f"running {found.models[number - 1]}")
            kept.append(_observe(models[number], ids, Path(folder) / str(number)))
            models[number] = models[0]  # lets go of the weights
            gc.collect()
        compared = [
            replace(pair, outputs=_compare(kept[i], kept[j], found.layers))
            for pair, (i, j) in zip(found.pairs, pairs(len(kept)), strict=True)
        ]
        found = replace(found, pairs=tuple(compared), prompts=len(asked))
        if merging is None:
            return found
        merges = mean_merges(refs, merging, device, _BATCH)
        lost = _left_out(merges, ids, Path(folder), found, tell)
        return replace(
            found,
            contributions=tuple(
                replace(each, outputs=outputs)
                for each, outputs in zip(found.contributions, lost, strict=True)
            ),
        )


def _left_out(
    merges: Iterator[HfModel],
    ids: Sequence[Sequence[int]],
    folder: Path,
    found: Similarity,
    tell: Callable[[str], None],
) -> Iterator[PairOutputs]:
    """The merge of all models against each that leaves one out."""
    tell("running the mean merge of all models")
    whole = _observe(next(merges), ids, folder / "all")
    for model, merge in zip(found.models, merges, strict=True):
        tell(f"running the mean merge without {model}")
        yield _compare(whole, _observe(merge, ids, folder / "without"), found.layers)


@dataclass(frozen=True)
class _Kept:
    """What is kept of a model: Gram matrices by hidden state, log-probabilities in a file."""

    grams: list[torch.Tensor]
    file: Path
    shape: tuple[int, int]

    def logs(self) -> torch.Tensor:
        import torch

        rows, columns = self.shape
        flat = torch.from_file(str(self.file), size=rows * columns, dtype=torch.float32)
        return flat.view(rows, columns)


def _encode(models: Sequence[HfModel], asked: Sequence[Conversation]) -> list[list[int]]:
    failure: ModelError | None = None
    for model in models:
        try:
            return [encode_prompt(model.tokenizer, each)[:MAX_TOKENS] for each in asked]
        except ModelError as error:
            failure = failure or error
    assert failure is not None  # there are models
    raise failure


def chosen_positions(ids: Sequence[Sequence[int]], limit: int = POSITIONS) -> list[tuple[int, int]]:
    """(prompt, token) of what is compared, evenly over all prompts, ``limit`` at most.

    What all prompts begin with has one state in all of them, so it is left out.
    """
    shared = 0
    if len(ids) > 1:
        shortest = min(map(len, ids))
        while shared < shortest - 1 and len({row[shared] for row in ids}) == 1:
            shared += 1
    every = [(prompt, at) for prompt, row in enumerate(ids) for at in range(shared, len(row))]
    if len(every) <= limit:
        return every
    return [every[i * len(every) // limit] for i in range(limit)]


def _observe(model: HfModel, ids: Sequence[Sequence[int]], file: Path) -> _Kept:
    """Run a model over the prompts and keep what is compared."""
    import torch

    positions = chosen_positions(ids)
    order = {place: row for row, place in enumerate(positions)}
    states: list[torch.Tensor] = []
    logs: torch.Tensor | None = None
    for prompts, hidden, logits in _forward(model, ids):
        for slot, prompt in enumerate(prompts):
            at = [place for place in positions if place[0] == prompt]
            if not at:
                continue
            rows, columns = [order[place] for place in at], [place[1] for place in at]
            if logs is None:
                shape = len(positions), logits.shape[-1]
                states = [torch.empty(len(positions), h.shape[-1]) for h in hidden]
                logs = torch.from_file(
                    str(file), shared=True, size=shape[0] * shape[1], dtype=torch.float32
                ).view(shape)
            logs[rows] = logits[slot, columns].float().log_softmax(-1).cpu()
            for state, layer in zip(states, hidden, strict=True):
                state[rows] = layer[slot, columns].float().cpu()
    assert logs is not None  # there are prompts
    return _Kept([centred_gram(state) for state in states], file, (logs.shape[0], logs.shape[1]))


def _forward(
    model: HfModel, ids: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], Any, torch.Tensor]]:
    """(numbers of prompts, hidden states, logits) of every batch, padded on the right."""
    import torch

    loaded = model.model
    by_length = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    for begin in range(0, len(by_length), _BATCH):
        prompts = by_length[begin : begin + _BATCH]
        rows = [ids[row] for row in prompts]
        inputs = model.token_rows(padded(rows, 0, left=False))
        mask = padded([[1] * len(row) for row in rows], 0, left=False)
        with torch.inference_mode(), model.running():
            answer = loaded(
                input_ids=inputs,
                attention_mask=torch.tensor(mask, device=loaded.device),
                output_hidden_states=True,
                use_cache=False,
            )
        yield prompts, answer.hidden_states, answer.logits


def _compare(first: _Kept, second: _Kept, layers: Sequence[str]) -> PairOutputs:
    values = [linear_cka(x, y) for x, y in zip(first.grams, second.grams, strict=True)]
    labels = {str(number): value for number, value in enumerate(values[1:])}
    labels |= dict.fromkeys(_EMBEDDINGS, values[0])
    cka = {label: labels[label] for label in layers if label in labels}
    divergence, agreed = 0.0, 0
    one, two = first.logs(), second.logs()
    for begin in range(0, len(one), _ROWS):
        p, q = one[begin : begin + _ROWS], two[begin : begin + _ROWS]
        divergence += float((p.double().exp() * (p.double() - q.double())).sum())
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
    return PairOutputs(cka, divergence / len(one), agreed / len(one))
