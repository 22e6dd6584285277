"""The circuit breaker: when it opens, what it lets through, and when it closes again."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from weft.breaker import CircuitBreaker
from weft.domain import NotFound, Unavailable


class Service:
    """Something to call: answers, or fails with `error`, once released; counts its calls."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls = 0
        self.error: BaseException | None = None
        self.released = asyncio.Event()
        self.released.set()

    async def ask(self) -> str:
        """Answer."""
        self.calls += 1
        error = self.error
        await self.released.wait()
        if error is not None:
            raise error
        return "answer"


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
def breaker(service: Service) -> CircuitBreaker:
    return CircuitBreaker("product", threshold=3, reset_after=10, now=lambda: service.now)


def failed(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    """Return how a call failed."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


async def fail(service: Service, breaker: CircuitBreaker, error: BaseException, times: int = 1) -> None:
    """Have calls fail."""
    service.error = error
    for _ in range(times):
        with pytest.raises(type(error)):
            await breaker.call(service.ask)
    service.error = None


async def open_it(service: Service, breaker: CircuitBreaker) -> None:
    """Have so many calls fail that the breaker opens."""
    await fail(service, breaker, failed(grpc.StatusCode.UNAVAILABLE), 3)
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "outage",
    [
        failed(grpc.StatusCode.UNAVAILABLE),
        failed(grpc.StatusCode.DEADLINE_EXCEEDED),
        Unavailable("not now"),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=repr,
)
async def test_outages_in_a_row_open_it(service: Service, breaker: CircuitBreaker, outage: Exception) -> None:
    await fail(service, breaker, outage, 2)
    assert breaker.state == "closed"
    await fail(service, breaker, outage)
    assert breaker.state == "open"


async def test_an_open_one_refuses_at_once_and_says_for_how_long(service: Service, breaker: CircuitBreaker) -> None:
    await open_it(service, breaker)
    service.now += 4
    with pytest.raises(Unavailable, match="product") as caught:
        await breaker.call(service.ask)

    assert caught.value.retry_after == pytest.approx(6)
    assert service.calls == 3


@pytest.mark.parametrize("error", [failed(grpc.StatusCode.NOT_FOUND), NotFound("product", "x"), ValueError()], ids=repr)
async def test_an_error_that_is_an_answer_is_no_outage(
    service: Service, breaker: CircuitBreaker, error: Exception
) -> None:
    await fail(service, breaker, failed(grpc.StatusCode.UNAVAILABLE), 2)
    await fail(service, breaker, error)
    await fail(service, breaker, failed(grpc.StatusCode.UNAVAILABLE), 2)

    assert breaker.state == "closed"


async def test_an_answer_in_between_starts_the_count_anew(service: Service, breaker: CircuitBreaker) -> None:
    await fail(service, breaker, TimeoutError(), 2)
    assert await breaker.call(service.ask) == "answer"
    await fail(service, breaker, TimeoutError(), 2)

    assert breaker.state == "closed"


async def test_after_a_while_one_call_is_let_through_and_its_answer_closes_it(
    service: Service, breaker: CircuitBreaker
) -> None:
    await open_it(service, breaker)
    service.now += 10
    assert breaker.state == "half-open"
    service.released.clear()
    probe = asyncio.create_task(breaker.call(service.ask))
    await asyncio.sleep(0)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await breaker.call(service.ask)
    assert service.calls == 4
    service.released.set()

    assert await probe == "answer"
    assert breaker.state == "closed"
    assert await breaker.call(service.ask) == "answer"


async def test_a_probe_that_fails_opens_it_again(service: Service, breaker: CircuitBreaker) -> None:
    await open_it(service, breaker)
    service.now += 10
    await fail(service, breaker, TimeoutError())
    assert breaker.state == "open"
    service.now += 9
    assert breaker.state == "open"
    service.now += 1
    assert await breaker.call(service.ask) == "answer"
    assert breaker.state == "closed"


async def test_a_probe_that_is_cancelled_leaves_the_place_to_the_next(
    service: Service, breaker: CircuitBreaker
) -> None:
    await open_it(service, breaker)
    service.now += 10
    service.released.clear()
    probe = asyncio.create_task(breaker.call(service.ask))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    assert breaker.state == "half-open"
    service.released.set()

    assert await breaker.call(service.ask) == "answer"
    assert breaker.state == "closed"


@pytest.mark.parametrize("late", [TimeoutError(), None], ids=repr)
async def test_what_was_asked_before_it_opened_tells_nothing_afterwards(
    service: Service, breaker: CircuitBreaker, late: Exception | None
) -> None:
    service.released.clear()
    service.error = late
    early = asyncio.create_task(breaker.call(service.ask))
    await asyncio.sleep(0)
    service.released.set()
    slow, service.released = service.released, asyncio.Event()
    service.released.set()
    slow.clear()
    await open_it(service, breaker)
    service.now += 5
    slow.set()
    await asyncio.gather(early, return_exceptions=True)

    assert breaker.state == "open"
    service.now += 5
    assert breaker.state == "half-open"


async def test_a_block_can_be_guarded_too(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError), breaker.attempt():
            raise TimeoutError
    with pytest.raises(Unavailable), breaker.attempt():
        raise AssertionError("not let through")
