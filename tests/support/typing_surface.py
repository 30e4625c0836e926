"""What type checkers see: checked by mypy and pyright, never run."""

from __future__ import annotations

import functools
from typing import assert_type

import tenacity

from iii_resilience import (
    Budget,
    Failure,
    Hint,
    RetryPolicy,
    RetryReport,
    classify,
    discover,
    hint_for,
    iii_retry,
    report_for,
    resilient,
    retrying,
)
from iii_resilience.sdk.client_adapter import SdkClient
from iii_resilience.sdk.connection import Connection


@iii_retry
def bare(number: int, text: str = "") -> float:
    return number + len(text)


@iii_retry(idempotent=True, attempts=3, deadline=None, budget=Budget(), stop=tenacity.stop_never)
def with_options(*numbers: int, flag: bool) -> list[int]:
    return list(numbers) if flag else []


@iii_retry(policy=RetryPolicy(wait=tenacity.wait_none() + tenacity.wait_fixed(1)))
async def coroutine(number: int) -> str:
    return str(number)


class Service:
    @iii_retry(idempotent=True)
    def method(self, number: int) -> int:
        return number

    @classmethod
    @iii_retry(idempotent=True)
    def of_class(cls, text: str) -> str:
        return text

    @staticmethod
    @iii_retry(idempotent=True)
    def static(number: int) -> int:
        return number


partial = iii_retry(idempotent=True)(functools.partial(bare, 1))


async def surface(service: Service, error: Exception) -> None:
    assert_type(bare(1, text="x"), float)
    assert_type(with_options(1, 2, flag=True), list[int])
    assert_type(await coroutine(1), str)
    assert_type(service.method(1), int)
    assert_type(Service.of_class("x"), str)
    assert_type(Service.static(1), int)
    assert_type(classify(error), Failure)
    assert_type(report_for(error), RetryReport | None)
    assert_type(hint_for(error), Hint | None)
    for attempt in retrying(idempotent=True):
        with attempt:
            assert_type(attempt.number, int)
    async for attempt in retrying(policy="payments"):
        with attempt:
            assert_type(attempt.number, int)
    bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with_options(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await coroutine()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    iii_retry(attempt=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def opaque(client: SdkClient, connection: Connection) -> None:
    client.trigger({})  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    connection.client.trigger({})  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    resilient(client)
    discover(client, "t::f")
