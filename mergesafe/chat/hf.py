"""Chat models of transformers, in this process: batched generation and scoring.

A reference is what a recipe calls a model: a folder, a Hub id (``org/name@revision``), or one of
them with a LoRA adapter after ``+``. The adapter is folded in as a merge folds it in: added in
float32, rounded once to the model's dtype. Remote code is never run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mergesafe.architecture.tying import HEADS
from mergesafe.chat.conversation import NLL, Conversation, Response, Sampling
from mergesafe.chat.model_files import check_files, files_digest
from mergesafe.chat.pretrained import (
    CAUSAL,
    check_declared,
    explained,
    load_model,
    load_tokenizer,
    running,
)
from mergesafe.chat.reasoning import markers, with_opening
from mergesafe.chat.runnable import check_device, require
from mergesafe.chat.streaming import Tell, TextStream, relabelled
from mergesafe.chat.tokens import check_template, encode, encode_text, padded, prompt_text
from mergesafe.checkpoint.format.lora import open_adapter
from mergesafe.checkpoint.format.lora_whole import in_place
from mergesafe.checkpoint.format.model import Checkpoint, open_checkpoint, similar
from mergesafe.checkpoint.format.reader import Reader
from mergesafe.checkpoint.places.locate import locate
from mergesafe.checkpoint.places.location import Location
from mergesafe.checkpoint.views.stored import Stored
from mergesafe.errors import ModelError
from mergesafe.recipe.model import ModelRef
from mergesafe.recipe.model_reader import parse_reference
from mergesafe.references import hub_id

if TYPE_CHECKING:
    import torch

BATCH: Final = 32
#: Longest prompt and answer together, in tokens; more of an answer is cut off.
MAX_TOKENS: Final = 2048
DTYPES: Final = ("auto", "bfloat16", "float16", "float32")


@dataclass
class HfModel:
    """A causal language model with a chat template.

    Args:
        reference: what a recipe calls the model, as text or read already.
        device: ``auto`` takes the first GPU where there is one.
        dtype: ``auto`` is that of the checkpoint.
        batch: conversations at a time.
        folder: what relative paths fall back to.
        label: a name for reports instead of the reference.
    """

    reference: str | ModelRef
    device: str = "auto"
    dtype: str = "auto"
    batch: int = BATCH
    folder: Path | None = None
    label: str | None = None

    @property
    def name(self) -> str:
        return self.label or self.ref.text

    @cached_property
    def identity(self) -> str:
        """A digest of the weights, the adapter's, the configuration and the chat template."""
        digest = sha256(f"{self.dtype}\n".encode())
        for place in self._places:
            digest.update(b"" if place is None else files_digest(place).encode())
        return digest.hexdigest()[:32]

    def check(self) -> None:
        """Find what is missing before any weight is read: files, chat template, adapter, device.

        Raises:
            ModelError, CheckpointError: the model cannot answer; the message says what to do.
        """
        self._check_files()
        self.tokenizer  # noqa: B018  # loading it checks the template
        self._device  # noqa: B018

    def check_plain(self) -> None:
        """As :meth:`check` where only plain text is continued, which needs no chat template."""
        self._check_files()
        self.plain_tokenizer  # noqa: B018
        self._device  # noqa: B018

    def _check_files(self) -> None:
        model, adapter = self._places
        check_files(model)
        checkpoint = open_checkpoint(model)
        check_declared(model)
        if adapter is not None:
            open_adapter(adapter, checkpoint)

    def respond(
        self, conversations: Sequence[Conversation], sampling: Sampling, tell: Tell | None = None
    ) -> list[Response]:
        """Greedy at temperature 0, else sampled with a generator of ``sampling.seed``.

        Batches hold prompts of like length, padded on the left; a greedy answer does not depend on
        what else is in its batch but for rounding. Tags that part reasoning from answer are kept,
        special tokens of the tokenizer or not, and so is one that the chat template opened.
        ``tell`` is told each conversation's number and its text so far.
        """
        prompts = [prompt_text(self.tokenizer, each) for each in conversations]
        encoded = [encode_text(self.tokenizer, each) for each in prompts]
        said = self._responses(encoded, sampling, tell)
        return [
            Response(with_opening(each.text, asked, finished=each.finished), each.finished)
            for each, asked in zip(said, prompts, strict=True)
        ]

    def complete(self, prompts: Sequence[str], sampling: Sampling) -> list[Response]:
        """What follows each prompt; its text is tokenized as it stands, control tokens included."""
        return self._responses([encode_text(self.plain_tokenizer, p) for p in prompts], sampling)

    def next_token(self, prompts: Sequence[str], tokens: Sequence[str]) -> list[tuple[float, ...]]:
        """p(token | prompt) by a softmax over the whole vocabulary, in float32."""
        import torch

        wanted = [self._single_token(token) for token in tokens]
        encoded = [encode_text(self.plain_tokenizer, prompt) for prompt in prompts]
        likely: list[tuple[float, ...]] = [()] * len(encoded)
        for rows in _batches([len(each) for each in encoded], self.batch):
            group = [encoded[row] for row in rows]
            ids = self.token_rows(padded(group, self._pad, left=False))
            mask = self._tensor(padded([[1] * len(each) for each in group], 0, left=False))
            with torch.inference_mode(), self.running():
                logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            last = logits[torch.arange(len(rows)), mask.sum(1) - 1].float().softmax(-1)
            for row, values in zip(rows, last[:, wanted].tolist(), strict=True):
                likely[row] = tuple(values)
        return likely

    def _single_token(self, text: str) -> int:
        ids = encode_text(self.plain_tokenizer, text)
        if len(ids) != 1:
            raise ModelError(
                f"{self.name}: {text!r} is {len(ids)} tokens of the model's vocabulary; expected "
                "one. Is this the model that the judge was made for?"
            )
        return ids[0]

    def _responses(
        self, prompts: list[list[int]], sampling: Sampling, tell: Tell | None = None
    ) -> list[Response]:
        import torch

        responses: list[Response] = [Response("")] * len(prompts)
        torch.manual_seed(sampling.seed)
        for rows in _batches([len(prompt) for prompt in prompts], self.batch):
            told = None if tell is None else relabelled(tell, rows)
            generated = self._generate([prompts[row] for row in rows], sampling, told)
            for row, response in zip(rows, generated, strict=True):
                responses[row] = response
        return responses

    def nll(self, pairs: Sequence[tuple[Conversation, str]]) -> list[NLL]:
        """−Σ log p of each answer's tokens, the end-of-turn token among them, in float32."""
        import torch

        encoded = [encode(self.tokenizer, asked, said, MAX_TOKENS) for asked, said in pairs]
        scores = [NLL(0.0, 0)] * len(encoded)
        for rows in _batches([len(each.ids) for each in encoded], self.batch):
            group = [encoded[row] for row in rows]
            ids = self.token_rows(padded([each.ids for each in group], self._pad, left=False))
            labels = self._tensor(padded([each.labels for each in group], -100, left=False))
            mask = self._tensor(padded([[1] * len(e.ids) for e in group], 0, left=False))
            with torch.inference_mode(), self.running():
                logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                losses = torch.nn.functional.cross_entropy(
                    logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
                ).view(len(rows), -1)
            counted = (labels[:, 1:] != -100).sum(1).tolist()
            for row, total, count in zip(rows, losses.sum(1).tolist(), counted, strict=True):
                scores[row] = NLL(float(total), int(count))
        return scores

    # --- loading -----------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, padding on the left; it has a chat template."""
        check_template(self.plain_tokenizer, self.name)
        return self.plain_tokenizer

    @cached_property
    def plain_tokenizer(self) -> Any:
        """The model's tokenizer, with a chat template or without."""
        return load_tokenizer(self._places[0], padding_side="left")

    @cached_property
    def model(self) -> Any:
        """The model on its device, with the adapter folded in, for evaluation."""
        require()
        import torch

        dtype = "auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        place, adapter = self._places
        model: Any = load_model(place, CAUSAL, dtype=dtype)
        if adapter is not None:
            with explained(adapter, "adapter"):
                fold_in(model, adapter, open_checkpoint(place))
        return model.to(self._device).eval()

    @cached_property
    def _device(self) -> str:
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        check_device(self.device, self.name)
        return self.device

    @property
    def ref(self) -> ModelRef:
        """The model, and the adapter that is folded in."""
        if isinstance(self.reference, ModelRef):
            return self.reference
        return parse_reference(self.reference, self.folder or Path())

    @property
    def place(self) -> Location:
        """Where the model lies, its adapter left aside."""
        return self._places[0]

    @cached_property
    def _places(self) -> tuple[Location, Location | None]:
        """Where model and adapter lie."""
        ref = self.ref
        model, adapter = ref.resolve(self.folder or Path())
        expected = {"a model with config.json and weights": model, "an adapter": adapter}
        for what, place in expected.items():
            # Unlike Path's, questions of os.path are answered for names that are too long, too.
            if isinstance(place, Path) and not os.path.isdir(place):
                exists = os.path.exists(place)
                found = "this is a file" if exists else "there is no such folder"
                close = None if exists else similar(place)
                hint = f". Did you mean {close}?" if close else ""
                raise ModelError(
                    f"{place}: {found}; expected the folder of {what}, or a Hub id such as "
                    f"org/name{hint}"
                )
        if not isinstance(model, Path) and hub_id(model) is None:
            raise ModelError(f"{ref.text}: a model to run must be a folder or a Hub id, not a URL")
        return locate(model), None if adapter is None else locate(adapter)

    # --- running -----------------------------------------------------------------------------

    @property
    def _pad(self) -> int:
        """Fills rows, where nothing looks at it. Fine-tunes may have a token for it, and no row of
        the embedding for that.
        """
        tokenizer = self.plain_tokenizer
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        return next((t for t in known if t is not None and 0 <= t < self._vocabulary), 0)

    @property
    def _vocabulary(self) -> int:
        """How many tokens the model has."""
        weight = getattr(self.model.get_input_embeddings(), "weight", None)
        # A merge that is tuned makes its embedding on demand.
        return self.model.config.get_text_config().vocab_size if weight is None else len(weight)

    def token_rows(self, rows: list[list[int]]) -> torch.Tensor:
        """Tokens for the model, which must have all of them."""
        known = self._vocabulary
        beyond = next((token for row in rows for token in row if not 0 <= token < known), None)
        if beyond is not None:
            raise ModelError(
                f"{self.name}: its tokenizer gives the token {beyond:,}, but the model has "
                f"{known:,} only. They do not belong together: download the model again."
            )
        return self._tensor(rows)

    def _tensor(self, rows: list[list[int]]) -> torch.Tensor:
        import torch

        return torch.tensor(rows, device=self.model.device)

    def _generate(
        self, prompts: list[list[int]], sampling: Sampling, tell: Tell | None
    ) -> list[Response]:
        import torch

        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        if sampling.temperature > 0:
            options = {
                "do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p,
            }  # fmt: skip
        if tell is not None:
            options["streamer"] = TextStream(self._decoded, self._end_tokens(), tell)
        ids = self.token_rows(padded(prompts, self._pad, left=True))
        mask = self._tensor(padded([[1] * len(prompt) for prompt in prompts], 0, left=True))
        with torch.inference_mode(), self.running():
            output = self.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens,
                pad_token_id=self._pad, top_k=None, **options,
            )  # fmt: skip
        said = output[:, ids.shape[1] :]
        with running(self.name):
            texts = self._decoded(said.tolist())
        ends = self._end_tokens()
        return [
            Response(each.strip(), bool(ends & set(row)))
            for each, row in zip(texts, said.tolist(), strict=True)
        ]

    def _decoded(self, rows: list[list[int]]) -> list[str]:
        """The texts without special tokens, except for those that part reasoning from answer."""
        tokenizer = self.plain_tokenizer
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(token for token, each in added if each.special)}
        kept = special & {tokenizer.convert_tokens_to_ids(each) for each in markers(tokenizer)}
        if not kept:
            texts: list[str] = tokenizer.batch_decode(rows, skip_special_tokens=True)
            return texts
        plain = [[token for token in row if token in kept or token not in special] for row in rows]
        texts = tokenizer.batch_decode(plain, skip_special_tokens=False)
        return texts

    @contextmanager
    def running(self) -> Iterator[None]:
        """What goes wrong inside the model, as one paragraph: also a device without memory."""
        import torch

        try:
            with running(self.name):
                yield
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{self.name}: {self.batch} conversations at a time do not fit into the memory of "
                f"{self._device} ({' '.join(str(error).split())[:200]}); lower the model's 'batch'"
            ) from None

    def _end_tokens(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return {int(end) for end in (*listed, self.plain_tokenizer.eos_token_id) if end is not None}


def fold_in(model: Any, adapter: Any, base: Checkpoint) -> None:
    """W ← W + scale · B · A for every adapted matrix of a model on the CPU, as a merge does it,
    after tensors that the adapter stores whole have taken the place of the model's.

    Raises:
        CheckpointError: the adapter does not fit the base.
    """
    from mergesafe.chat.weights import lora_factors, read
    from mergesafe.ops.low_rank import add_low_rank

    found = open_adapter(adapter, base)
    tied = bool(found.config.get("ensure_weight_tying"))
    stored, _ = in_place(base, found.whole, trains_tied=tied)
    heads = [name for name in stored if name in HEADS] if found.whole else []
    if heads or any(name in HEADS or name not in base.tensors for name in found.pairs):
        _untie(model)
    with Reader() as reader:
        for name, info in found.whole.items():
            if info.shape != tuple(model.get_parameter(name).shape):
                model.resize_token_embeddings(info.shape[0], mean_resizing=False)
            model.get_parameter(name).data.copy_(read(Stored(info), reader))
        for name, pair in found.pairs.items():
            weight = model.get_parameter(name).data
            weight.copy_(add_low_rank(weight, *lora_factors(pair, reader), pair.scale))


def _untie(model: Any) -> None:
    """Give a model that ties its head a head of its own: an adapter of the head leaves the
    embedding as it is.
    """
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    head.weight = torch.nn.Parameter(head.weight.data.clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices in groups of like length, the longest first: what does not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]
