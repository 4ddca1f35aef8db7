"""Questions that are asked at the same moment are answered by one call."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from api.together import AT_MOST, Together


class Halves:
    """Answers with the half of an even number; an odd one is an error of its own."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.threads: set[int] = set()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        assert self.go_on.wait(10)
        self.calls.append(list(numbers))
        self.threads.add(threading.get_ident())
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError(f"{n} is odd") if n % 2 else n // 2 for n in numbers]


both = pytest.mark.parametrize("waits", [True, False])


@both
def test_each_gets_its_own_answer_or_error(waits: bool) -> None:
    halves = Halves()

    async def ask() -> list[int | BaseException]:
        together = Together(halves, waits=waits)
        return await asyncio.gather(*map(together.ask, [8, 3, 2, 8, 5]), return_exceptions=True)

    answers = asyncio.run(ask())
    assert [repr(answer) for answer in answers] == [
        "4",
        "ValueError('3 is odd')",
        "1",
        "4",
        "ValueError('5 is odd')",
    ]
    assert halves.calls == [[8, 3, 2, 8, 5]]
    assert (threading.get_ident() in halves.threads) != waits


@both
def test_a_call_that_fails_fails_all_that_were_in_it_and_no_other(waits: bool) -> None:
    halves = Halves()

    async def ask() -> list[int | BaseException]:
        together = Together(halves, waits=waits)
        failed = await asyncio.gather(*map(together.ask, [2, 0, 4]), return_exceptions=True)
        return [*failed, await together.ask(6)]

    *failed, last = asyncio.run(ask())
    assert [type(error) for error in failed] == [ZeroDivisionError] * 3
    assert last == 3


def test_who_asks_during_a_call_is_in_the_next_and_who_has_gone_harms_nobody() -> None:
    halves = Halves()

    async def ask() -> list[int | BaseException]:
        together = Together(halves, waits=True)
        halves.go_on.clear()
        asked = [asyncio.create_task(together.ask(2))]
        await asyncio.sleep(0.05)  # that call has begun
        asked += [asyncio.create_task(together.ask(n)) for n in (4, 6, 8)]
        await asyncio.sleep(0)
        asked[0].cancel()
        asked[2].cancel()
        halves.go_on.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third, fourth = asyncio.run(ask())
    assert halves.calls == [[2], [4, 6, 8]]
    assert (second, fourth) == (2, 4)
    assert isinstance(first, asyncio.CancelledError) and isinstance(third, asyncio.CancelledError)


def test_who_closes_waits_for_a_call_that_nobody_waits_for() -> None:
    halves = Halves()

    async def ask() -> None:
        together = Together(halves, waits=True)
        await together.close()  # there is none
        halves.go_on.clear()
        asked = asyncio.create_task(together.ask(2))
        await asyncio.sleep(0.05)
        asked.cancel()
        closing = asyncio.create_task(together.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        halves.go_on.set()
        await closing

    asyncio.run(ask())
    assert halves.calls == [[2]]


def test_a_crowd_that_comes_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.together.GATHER_S", 0.3)
    halves = Halves()

    async def ask() -> list[int]:
        together = Together(halves, waits=True)
        await asyncio.gather(*map(together.ask, [2, 4, 6]))
        early = asyncio.create_task(together.ask(8))
        for _ in range(5):
            await asyncio.sleep(0)  # a call would have begun by now
        late = await together.ask(10)
        return [await early, late, await together.ask(12), await together.ask(14)]

    assert asyncio.run(ask()) == [4, 5, 6, 7]
    assert halves.calls == [[2, 4, 6], [8, 10], [12], [14]]


def test_a_crowd_is_split() -> None:
    halves = Halves()

    async def ask() -> list[int]:
        together = Together(halves, waits=True)
        return await asyncio.gather(*(together.ask(2 * n) for n in range(1, 2 * AT_MOST + 2)))

    assert asyncio.run(ask()) == list(range(1, 2 * AT_MOST + 2))
    assert [len(call) for call in halves.calls] == [AT_MOST, AT_MOST, 1]
