"""What the details of a library's exception make of its row."""

from __future__ import annotations

import errno
import socket
from typing import Any

import botocore.exceptions
import httpx
import pytest
from support.short_names import EX, ME, NE, A, N, P, T, X

from iii_resilience import Category, Execution, Failure, classify
from iii_resilience.core.classifiers.library_details import _numbers, of_category

REMEDIES = {
    errno.EBUSY: "repeat the call only if it is idempotent",
    errno.EMFILE: "slow down: the other side is overloaded or limits its callers",
    errno.EACCES: "fix the credentials or the rights that the call is made with",
    errno.ENOENT: "check the address or name: what is called does not exist there",
    errno.ENAMETOOLONG: "fix the request: it will be rejected again as it is",
    errno.ENOSPC: "look at the other side's answer: a repeat will not change it",
}


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_remedy_goes_with_category_and_load(number: int) -> None:
    assert classify(OSError(number, "words")).remedy == REMEDIES[number]


def test_only_meaning_changes_with_category() -> None:
    row = Failure(
        "a.B",
        Category.TRANSIENT,
        Execution.MAYBE_EXECUTED,
        throttled=True,
        retry_after=7.0,
        message="words",
        remedy="as the row says",
    )
    assert of_category(row, Category.AUTH, Execution.NOT_EXECUTED) == row.replace(
        category=Category.AUTH,
        execution=Execution.NOT_EXECUTED,
        throttled=False,
        remedy=REMEDIES[errno.EACCES],
    )


def test_number_that_system_does_not_have_is_left_out() -> None:
    assert _numbers("EPIPE ENOSUCHNUMBER ECONNRESET") == [errno.EPIPE, errno.ECONNRESET]
    assert _numbers("") == []


# Name resolution


@pytest.mark.parametrize(
    ("number", "category"),
    [
        (socket.EAI_NONAME, T),
        (socket.EAI_AGAIN, T),
        (socket.EAI_FAIL, T),
        (socket.EAI_SERVICE, P),
        (socket.EAI_FAMILY, P),
        (socket.EAI_SOCKTYPE, P),
        (socket.EAI_BADFLAGS, P),
    ],
)
def test_only_wrong_argument_of_name_lookup_stays_wrong(number: int, category: Category) -> None:
    failure = classify(socket.gaierror(number, "words"))
    assert (failure.code, failure.category, failure.execution) == ("socket.gaierror", category, NE)
    assert (failure.remedy == REMEDIES[errno.ENAMETOOLONG]) == (category is P)


def test_name_lookup_without_number_may_succeed_later() -> None:
    failure = classify(socket.gaierror("words"))
    assert (failure.category, failure.execution) == (T, NE)


# AWS


def aws_error(code: object = None, status: object = None, **headers: str) -> Exception:
    response = {
        "Error": {"Code": code, "Message": "words"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    error: Exception = botocore.exceptions.ClientError(response, "PutItem")
    return error


@pytest.mark.parametrize(
    ("code", "category", "execution", "throttled", "remedy"),
    [
        ("ThrottlingException", T, NE, True, REMEDIES[errno.EMFILE]),
        ("SlowDown", T, NE, True, REMEDIES[errno.EMFILE]),
        ("RequestTimeout", T, ME, False, REMEDIES[errno.EBUSY]),
        ("InternalFailure", T, ME, False, REMEDIES[errno.EBUSY]),
        ("ExpiredToken", A, NE, False, REMEDIES[errno.EACCES]),
        ("NoSuchKey", N, ME, False, REMEDIES[errno.ENOENT]),
        ("ValidationException", P, NE, False, REMEDIES[errno.ENAMETOOLONG]),
    ],
)
def test_code_of_aws_service_outranks_status(
    code: str, category: Category, execution: Execution, *, throttled: bool, remedy: str
) -> None:
    failure = classify(aws_error(code, 400))
    assert (failure.category, failure.execution) == (category, execution)
    assert failure.throttled is throttled
    assert failure.code == "botocore.exceptions.ClientError"
    assert failure.remedy == f"{remedy} ({code})"
    assert failure.retry_after is None


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("OutOfStock", 503), (None, 503)])
def test_aws_service_may_say_when_to_come_again(code: str | None, status: int) -> None:
    failure = classify(aws_error(code, status, **{"retry-after": "7"}))
    assert (failure.category, failure.retry_after) == (T, 7.0)


@pytest.mark.parametrize(("status", "category"), [(503, T), (403, A), (404, N), (400, P)])
@pytest.mark.parametrize("code", ["OutOfStock", "", None, 7])
def test_other_code_of_aws_leaves_it_to_status(
    code: object, status: int, category: Category
) -> None:
    failure = classify(aws_error(code, status))
    assert failure.code == "botocore.exceptions.ClientError"
    assert (failure.category, failure.known) == (category, True)
    answer = httpx.Response(status, request=httpx.Request("GET", "http://a"))
    alike = classify(httpx.HTTPStatusError("words", request=answer.request, response=answer))
    assert (failure.execution, failure.remedy) == (alike.execution, alike.remedy)


class Malformed(botocore.exceptions.ClientError):  # type: ignore[misc]
    """As a client of another protocol might fill it."""

    def __init__(self, response: object) -> None:
        Exception.__init__(self, "words")
        self.response = response


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"Error": None, "ResponseMetadata": None},
        {"Error": "SlowDown", "ResponseMetadata": "503"},
        {"Error": {"Code": "OutOfStock"}, "ResponseMetadata": {"HTTPStatusCode": "503"}},
        {"Error": {"Code": ["SlowDown"]}},
    ],
)
def test_aws_answer_without_code_and_status_was_an_answer(response: Any) -> None:
    failure = classify(Malformed(response))
    assert (failure.category, failure.execution, failure.known) == (X, EX, True)
    assert failure.remedy == "look at the status of the answer"


def test_code_of_aws_counts_without_headers_too() -> None:
    failure = classify(Malformed({"Error": {"Code": "SlowDown"}, "ResponseMetadata": []}))
    assert (failure.category, failure.throttled, failure.retry_after) == (T, True, None)


@pytest.mark.parametrize("response", [None, [], "SlowDown"])
def test_aws_error_without_answer_is_unknown(response: object) -> None:
    assert not classify(Malformed(response)).known
