"""What concurrent requests want of the database, in one transaction."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

AT_MOST = 50  # in one transaction
GATHER_S = 0.001  # what a call waits for others to ask, if the last one was for several

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Together(Generic[Question, Answer]):
    """One call of `answer_all` for everybody who asks at the same moment.

    Who asks while a call is on its way is in the next one: the busier the service, the more share
    what a call costs, and a client that is alone waits for nobody. `answer_all` gives each its
    answer, or the error that is its own; what it raises is everybody's. Used on one event loop.
    """

    def __init__(
        self,
        answer_all: Callable[[Sequence[Question]], Sequence[Answer | Exception]],
        *,
        waits: bool,
    ) -> None:
        """`waits`: a call may take long, so it is made in a thread."""
        self._answer_all = answer_all
        self._waits = waits
        self._was_crowd = False  # the last call was for several
        self._waiting: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._calling: asyncio.Task[None] | None = None

    async def ask(self, question: Question) -> Answer:
        """The answer to one question; raises what was answered if that is an error."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._calling is None or self._calling.done():
            self._calling = asyncio.create_task(self._call())
        return await future

    async def close(self) -> None:
        """Wait for the call that is on its way, though whoever asked may have gone."""
        if self._calling is not None and not self._calling.done():
            await asyncio.wait([self._calling])

    async def _call(self) -> None:
        while self._waiting:
            if self._waits and self._was_crowd:
                # those who were answered together come back together: not one, then the rest
                await asyncio.sleep(GATHER_S)
            asked, self._waiting = self._waiting[:AT_MOST], self._waiting[AT_MOST:]
            self._was_crowd = len(asked) > 1
            questions = [question for question, _ in asked]
            answers: Sequence[Answer | Exception]
            try:
                if self._waits:
                    answers = await run_in_threadpool(self._answer_all, questions)
                else:
                    answers = self._answer_all(questions)
            except Exception as error:
                answers = [error] * len(asked)
            for (_, future), answer in zip(asked, answers, strict=True):
                if future.done():
                    continue  # its client has gone
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
