"""Requests that wait for the model, and the batches in which it answers them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from mergesafe.chat.conversation import ChatModel, Conversation, Response, Sampling
from mergesafe.chat.hf import HfModel
from mergesafe.chat.reasoning import with_opening
from mergesafe.chat.tokens import prompt_text
from mergesafe.serve.room import check_room

#: Seconds that the first of a batch waits for others.
GATHER: Final = 0.005


class FullError(Exception):
    """As many requests wait as may."""


class _AllDoneError(Exception):
    """Nobody waits for more: whoever asked has gone, or the answer has come to a stop text."""


@dataclass
class _Waiting:
    conversation: Conversation
    sampling: Sampling
    seeded: bool
    tell: Callable[[str], None] | None
    stop: tuple[str, ...]
    answer: asyncio.Future[Response] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batcher:
    """Answers requests in their order, those with equal sampling together.

    Args:
        model: one batch is with it at a time, in a thread of its own.
        size: conversations of a batch at most.
        capacity: requests that may wait, beside those that are being answered.
    """

    def __init__(self, model: ChatModel, size: int, capacity: int) -> None:
        self._model, self._size, self._capacity = model, size, capacity
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._worker = asyncio.get_running_loop().create_task(self._work())

    async def stop(self) -> None:
        """Answer nothing more; what the model is at is finished first."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for each in self._waiting:
            each.answer.cancel()
        self._thread.shutdown(wait=True)

    async def respond(
        self,
        conversation: Conversation,
        sampling: Sampling,
        seeded: bool = True,
        tell: Callable[[str], None] | None = None,
        stop: tuple[str, ...] = (),
    ) -> Response:
        """The answer; ``tell`` is told its text so far, in the loop's thread.

        A drawn answer with a seed of its own is ``seeded``: it is drawn alone, and the same again.
        A model of this process ends where one of ``stop`` is in the text, which whoever asked cuts;
        other models answer to their end.

        Raises:
            FullError: as many wait as may.
            MergesafeError: the model cannot answer.
        """
        if len(self._waiting) >= self._capacity:
            raise FullError
        mine = _Waiting(conversation, sampling, seeded, tell, stop)
        self._waiting.append(mine)
        self._arrived.set()
        return await mine.answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await asyncio.sleep(GATHER)
            batch = self._next()
            if batch:
                try:
                    said = await loop.run_in_executor(self._thread, self._ask, batch, loop)
                except asyncio.CancelledError:
                    for each in batch:
                        each.answer.cancel()
                    raise
                for each, response in zip(batch, said, strict=True):
                    if each.answer.done():
                        continue
                    if isinstance(response, Exception):
                        each.answer.set_exception(response)
                    else:
                        each.answer.set_result(response)
            if not self._waiting:
                self._arrived.clear()

    def _next(self) -> list[_Waiting]:
        """The first that still wait for an answer, as many as have the first one's sampling."""
        batch: list[_Waiting] = []
        later: deque[_Waiting] = deque()
        while self._waiting and len(batch) < self._size:
            each = self._waiting.popleft()
            if each.answer.done():  # whoever asked has gone
                continue
            if not batch or _alike(batch[0], each):
                batch.append(each)
            else:
                later.append(each)
        self._waiting = later + self._waiting
        return batch

    def _ask(
        self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop
    ) -> list[Response | Exception]:
        """An answer each, or what went wrong: whatever it is, those who wait must hear of it.

        A conversation that the model refuses would fail all of its batch. Where it does before a
        word was told, each is asked alone.
        """
        conversations = [each.conversation for each in batch]
        sampling = batch[0].sampling
        begun = False
        ended: set[int] = set()

        def all_done() -> bool:
            return all(row in ended or each.answer.done() for row, each in enumerate(batch))

        def tell(row: int, text: str) -> None:
            nonlocal begun
            asked = batch[row]
            if asked.tell is not None and row not in ended:
                begun = True
                loop.call_soon_threadsafe(asked.tell, text)
            if row not in ended and any(each in text for each in asked.stop):
                begun = True
                ended.add(row)
                loop.call_soon_threadsafe(_end, asked, self._response(asked, text))
            if all_done():
                raise _AllDoneError  # the model need not finish what nobody waits for

        try:
            check_room(self._model, conversations)
            if isinstance(self._model, HfModel):
                return list(self._model.respond(conversations, sampling, tell))
            return list(self._model.respond(conversations, sampling))
        except Exception as error:
            if len(batch) == 1 or begun or all_done():
                return [error] * len(batch)
            return [self._ask([each], loop)[0] for each in batch]

    def _response(self, asked: _Waiting, text: str) -> Response:
        """What a model of this process said so far, as it gives answers that it did not finish."""
        assert isinstance(self._model, HfModel)
        prompt = prompt_text(self._model.tokenizer, asked.conversation)
        return Response(with_opening(text, prompt, finished=False), finished=False)


def _end(asked: _Waiting, response: Response) -> None:
    """The answer has come to its stop text; the others of its batch may go on."""
    if not asked.answer.done():
        asked.answer.set_result(response)


def _alike(first: _Waiting, second: _Waiting) -> bool:
    """Whether one batch can have both: a draw depends on its batch, so a seeded one is alone."""
    one, other = first.sampling, second.sampling
    greedy = one.temperature == other.temperature == 0
    same = (one.temperature, one.top_p) == (other.temperature, other.top_p)
    free = not first.seeded and not second.seeded
    return one.max_new_tokens == other.max_new_tokens and (greedy or (same and free))
