"""What users say of exception classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.short_names import A, N, P, T, X

import iii_resilience
from iii_resilience import (
    Category,
    ConfigError,
    Execution,
    NotConnectedError,
    PayloadError,
    PolicyBook,
    TransientError,
    classify,
    load_policies,
    register_codes,
    register_exceptions,
    use_policies,
)
from iii_resilience.config import dump_policies
from iii_resilience.core.classifiers import registered_exceptions as registered
from iii_resilience.core.classifiers.registered_exceptions import (
    ExceptionRules,
    exception_rules,
    transient_exceptions,
)
from iii_resilience.core.codes.lookup import LONGEST_CODE
from iii_resilience.core.decide import never_retried


class BusyError(Exception):
    """A user's own."""


class VeryBusyError(BusyError):
    pass


class CodedError(Exception):
    def __init__(self, code: str, message: str = "no") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


NAME = f"{__name__}.BusyError"


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registered._Registry, "code", ExceptionRules())
    monkeypatch.setattr(registered._Registry, "files", ExceptionRules())
    monkeypatch.setattr(registered, "_logged", set())
    before = use_policies(PolicyBook())
    yield
    use_policies(before)


def test_registered_class_covers_its_subclasses() -> None:
    assert classify(BusyError("x")).category is X
    register_exceptions({BusyError: "transient"})
    for kind in (BusyError, VeryBusyError):
        failure = classify(kind("x"))
        assert (failure.category, failure.known) == (T, True)
        assert (failure.system, failure.origin) == ("local", "library")
        assert failure.execution is Execution.MAYBE_EXECUTED
        assert failure.code == f"{__name__}.{kind.__name__}"
    register_exceptions({VeryBusyError: "permanent"})
    assert classify(VeryBusyError("x")).category is X
    assert classify(BusyError("x")).category is T


def test_names_stand_for_classes() -> None:
    register_exceptions({NAME: "transient", "httpx.ConnectError": "permanent"})
    assert classify(VeryBusyError("x")).category is T
    failure = classify(httpx.ConnectError("x"))
    assert (failure.code, failure.category) == ("httpx.ConnectError", X)


def test_argument_then_code_then_file_then_table() -> None:
    error = httpx.ConnectError("x")
    assert classify(error).category is T
    use_policies(load_policies({"version": 1, "exceptions": {"httpx.ConnectError": "auth"}}))
    assert classify(error).category is A
    register_exceptions({httpx.TransportError: "payload"})
    assert classify(error).category is P
    rules = exception_rules({httpx.HTTPError: "not-found"})
    assert classify(error, rules=rules).category is N
    assert classify(error).category is P


def test_callable_says_category_execution_or_nothing() -> None:
    said: Any = None
    register_exceptions({BusyError: lambda _: said})
    assert classify(BusyError("x")).known is False
    for said in ("transient", Category.TRANSIENT, ("transient", "executed")):
        failure = classify(BusyError("x"))
        assert failure.category is T
        executed = isinstance(said, tuple)
        assert (failure.execution is Execution.EXECUTED) is executed


def test_none_leaves_it_to_next_class_and_table() -> None:
    register_exceptions({VeryBusyError: lambda _: None, BusyError: "transient"})
    assert classify(VeryBusyError("x")).category is T
    register_exceptions({httpx.ConnectError: lambda _: None})
    assert classify(httpx.ConnectError("x")).category is T


def test_callable_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: Exception) -> str:
        raise RuntimeError("a secret")

    register_exceptions({BusyError: broken})
    with caplog.at_level(logging.WARNING, "iii_resilience"):
        assert {classify(BusyError("x")).category for _ in range(5)} == {X}
    assert [
        record.getMessage() for record in caplog.records if record.name == "iii_resilience"
    ] == [
        (
            f"the callable registered for {NAME} raised RuntimeError, or returned no category; "
            "its exceptions count as if it had returned None"
        )
    ]
    assert "a secret" not in caplog.text


@pytest.mark.parametrize("said", ["nonsense", 3, ("transient", "perhaps"), ("transient",), [], ()])
def test_callable_that_says_nonsense_counts_as_none(said: Any) -> None:
    register_exceptions({BusyError: lambda _: said})
    assert classify(BusyError("x")).category is X


def test_not_executed_never_speaks_of_outer_call() -> None:
    register_exceptions({BusyError: lambda _: ("transient", "not_executed")})
    failure = classify(BusyError("x"))
    assert failure.execution is Execution.NOT_EXECUTED
    assert not failure.proves_unexecuted


def test_pushback_of_known_class_stays() -> None:
    register_exceptions({httpx.HTTPStatusError: "transient"})
    failure = classify(answer(404))
    assert (failure.code, failure.category, failure.retry_after) == ("HTTP 404", T, 7.0)


def answer(status: int) -> httpx.HTTPStatusError:
    response = httpx.Response(status, headers={"Retry-After": "7"})
    return httpx.HTTPStatusError("x", request=httpx.Request("GET", "http://x"), response=response)


@pytest.mark.parametrize("status", [404, 429])
@pytest.mark.parametrize("category", ["transient", "auth", "not-found", "payload", "permanent"])
def test_only_transient_class_keeps_request_to_slow_down(category: str, status: int) -> None:
    register_exceptions({httpx.HTTPStatusError: category})
    failure = classify(answer(status))
    transient = category == "transient"
    assert failure.throttled is (transient and status == 429)
    assert failure.retry_after == (7.0 if transient else None)


@pytest.mark.parametrize(
    ("category", "remedy"),
    [
        ("transient", "repeat the call only if it is idempotent"),
        ("auth", "fix the credentials or the rights that the call is made with"),
        ("not-found", "check the address or name: what is called does not exist there"),
        ("payload", "fix the request: it will be rejected again as it is"),
        ("permanent", "look at the exception: its class is registered as permanent"),
    ],
)
def test_remedy_is_that_of_registered_category(category: str, remedy: str) -> None:
    register_exceptions({BusyError: category, httpx.HTTPStatusError: category})
    for error in (BusyError("x"), answer(429)):
        failure = classify(error)
        assert (failure.category.value, failure.remedy) == (category, remedy)


def test_class_without_row_is_named_and_quoted_in_full() -> None:
    long = type("L" * 200, (BusyError,), {})
    register_exceptions({BusyError: lambda _: ("transient", "executed")})
    failure = classify(long("its words"))
    assert failure.code == f"{__name__}.{'L' * 200}"[:LONGEST_CODE]
    assert (failure.message, failure.execution) == ("its words", Execution.EXECUTED)
    assert (failure.throttled, failure.retry_after) == (False, None)
    register_exceptions({ValueError: "transient"})
    assert classify(ValueError("x")).code == "ValueError"


def test_execution_of_known_class_stays_unless_said() -> None:
    register_exceptions({httpx.ConnectError: "transient"})
    assert classify(httpx.ConnectError("x")).execution is Execution.NOT_EXECUTED
    register_exceptions({httpx.ConnectError: lambda _: ("transient", "executed")})
    assert classify(httpx.ConnectError("x")).execution is Execution.EXECUTED


def test_unknown_code_yields_to_class_but_known_one_wins() -> None:
    register_exceptions({CodedError: "transient"})
    assert classify(CodedError("E42")).category is T
    assert classify(CodedError("FORBIDDEN")).category is A
    assert classify(CodedError("function_not_found")).category is N
    assert classify(CodedError("deserialization_error")).code == "deserialization_error"
    register_codes({"E42_KNOWN": "payload"})
    assert classify(CodedError("E42_KNOWN")).category is P


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
def test_class_never_outranks_what_it_chains(code: str) -> None:
    register_exceptions({BusyError: "transient", ExceptionGroup: "transient"})
    refused = CodedError(code)
    caused = BusyError("x")
    caused.__cause__ = refused
    while_handled = BusyError("x")
    while_handled.__context__ = refused
    twice = VeryBusyError("y")
    twice.__cause__ = caused
    said = BusyError(f'{{"type": "transient", "code": "{code}", "message": "m"}}')
    group = ExceptionGroup("several", [BusyError("z"), refused])
    for error in (caused, while_handled, twice, said, group):
        failure = classify(error)
        assert failure.category is not T
        assert failure.category in {A, N}
    assert never_retried(classify(caused))


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ('{"type": "permanent", "code": "FORBIDDEN", "message": "m"}', A),
        ('{"type": "transient", "code": "invocation_failed", "message": "FORBIDDEN: no"}', A),
        # Another code of the tables is the other side's, and the class is what users say of it.
        ('{"type": "permanent", "code": "INVALID_REQUEST_BODY", "message": "m"}', T),
        ('{"type": "permanent", "code": "payload_too_large", "message": "m"}', T),
        ('{"type": "permanent", "code": "OUR_OWN", "message": "m"}', T),
        ("FORBIDDEN: no form of a handler's", T),
    ],
)
def test_of_codes_in_text_only_denial_outweighs_class(text: str, category: Category) -> None:
    register_exceptions({BusyError: "transient"})
    assert classify(BusyError(text)).category is category


BAD: list[Any] = [
    {Exception: "transient"},
    {"Exception": "transient"},
    {BaseException: "transient"},
    {KeyboardInterrupt: "transient"},
    {int: "transient"},
    {BusyError: "sometimes"},
    {BusyError: None},
    {BusyError: []},
    {"builtins.Exception": "transient"},
    {BusyError: BusyError},
    {NotConnectedError: "permanent"},
    {"FORBIDDEN": "transient"},
    {"TIMEOUT": "transient"},
    {"": "transient"},
    {"not a name": "transient"},
    {3: "transient"},
    ["x"],
]


@pytest.mark.parametrize("rows", BAD, ids=str)
def test_bad_rows_are_refused_and_none_is_taken(rows: Any) -> None:
    if isinstance(rows, dict):
        rows = {BusyError: "transient", **rows}
    with pytest.raises(ConfigError, match="exceptions"):
        register_exceptions(rows)
    assert classify(BusyError("x")).category is X


CATEGORIES = "must be one of transient, auth, not-found, payload, permanent, or in code a callable "


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({BusyError: "often"}, CATEGORIES + "from the exception to one of them, got 'often'"),
        ({BusyError: 5}, CATEGORIES + "from the exception to one of them, got int"),
        ({BusyError: ValueError}, CATEGORIES + "from the exception to one of them, got type"),
        ({"TIMEOUT": "auth"}, "is a code, not a class: what codes mean is said under codes"),
        ({KeyboardInterrupt: "auth"}, "must be a subclass of Exception"),
        ({NotConnectedError: "auth"}, "goes by the code it carries: use register_codes"),
        (
            {"not a name": "auth"},
            "must be a class, or its qualified name (shop.errors.BusyError)",
        ),
        (
            {Exception: "transient"},
            (
                "is every exception there is, mistakes in the program included: name the classes "
                "that a repeat can help"
            ),
        ),
    ],
)
def test_refused_row_says_what_is_allowed(row: Any, problem: str) -> None:
    (key,) = row
    name = f"{key.__module__}.{key.__qualname__}" if isinstance(key, type) else key
    with pytest.raises(ConfigError) as caught:
        register_exceptions(row | {7: "auth"})
    assert list(caught.value.problems) == [
        f"exceptions.{name}: {problem}",
        "exceptions.7: must be a class, or its qualified name (shop.errors.BusyError)",
    ]


@pytest.mark.parametrize("code", ["FORBIDDEN", "function_not_found"])
def test_denial_is_refused_with_its_reason(code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        register_exceptions({code: "transient"})
    (problem,) = caught.value.problems
    assert problem.startswith(f"exceptions.{code}: is refused: nothing makes {code} retryable: ")


def test_other_than_mapping_is_refused_by_its_kind() -> None:
    with pytest.raises(ConfigError) as caught:
        register_exceptions([BusyError])  # type: ignore[arg-type]
    assert list(caught.value.problems) == [
        "exceptions: must be a mapping of classes to categories, got list"
    ]


def test_class_itself_is_registered_not_its_name() -> None:
    another = type("BusyError", (Exception,), {"__module__": __name__})
    register_exceptions({BusyError: "transient"})
    assert classify(another("x")).category is X


def test_every_exception_may_be_permanent() -> None:
    register_exceptions({Exception: "permanent", "builtins.OSError": "auth"})
    assert classify(BusyError("x")).known
    assert classify(OSError("x")).category is A


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ("shop.BusyError", "transient takes classes of exceptions, got str"),
        (b"x", "transient takes classes of exceptions, got bytes"),
        (5, "transient takes classes of exceptions, got int"),
    ],
)
def test_argument_names_what_it_takes(kinds: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        transient_exceptions(kinds)
    assert str(caught.value) == message


def test_argument_of_decorator_takes_classes() -> None:
    rules = transient_exceptions((BusyError, KeyError))
    assert classify(VeryBusyError("x"), rules=rules).category is T
    assert classify(KeyError("x"), rules=rules).category is T
    assert classify(IndexError("x"), rules=rules).category is X
    assert transient_exceptions(BusyError)
    assert not transient_exceptions(())
    outer = RuntimeError("y")
    outer.__cause__ = BusyError("x")
    assert classify(outer, rules=rules).category is T
    for bad in ("BusyError", 3, None):
        with pytest.raises(TypeError, match="transient takes classes"):
            transient_exceptions(bad)


# Files


def test_files_know_field(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(f"version: 1\nexceptions:\n  {NAME}: transient\n")
    book = load_policies(path)
    assert classify(BusyError("x")).category is X, "a book says nothing until it is used"
    use_policies(book)
    assert classify(VeryBusyError("x")).category is T
    again = tmp_path / "again.yaml"
    again.write_text(dump_policies(book))
    assert load_policies(again) == book
    path.write_text("version: 1\nexceptions:\n  httpx.HTTPError: payload\n")
    assert book.reload()
    assert classify(BusyError("x")).category is X
    assert classify(httpx.ReadTimeout("x")).category is P


def test_later_files_win() -> None:
    first = {"version": 1, "exceptions": {NAME: "transient", "a.B": "auth"}}
    second = {"version": 1, "exceptions": {NAME: "permanent"}}
    book = load_policies([first, second])
    rules = {rule.name: rule.data for rule in book.policy_set.exceptions}
    assert rules == {NAME: "permanent", "a.B": "auth"}


def test_files_say_where_row_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(
        "version: 1\nexceptions:\n  a.B: sometimes\n  FORBIDDEN: transient\n  a-b: auth\n  c: 3\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_policies(path)
    problems = [problem.removeprefix(f"{path}:") for problem in caught.value.problems]
    assert problems[0] == (
        "3:3: exceptions.a.B: must be one of transient, auth, not-found, payload, permanent, "
        "got 'sometimes'"
    )
    assert problems[1].startswith("4:3: exceptions.FORBIDDEN: is refused: nothing makes")
    assert problems[2].startswith("5:3: exceptions.a-b: must be a class, or its qualified name")
    assert problems[3].endswith("permanent, got int")
    path.write_text("version: 1\nexceptions: [a]\n")
    with pytest.raises(ConfigError, match="exceptions: must be a mapping of qualified class"):
        load_policies(path)


def test_callable_cannot_be_dumped() -> None:
    book = PolicyBook(exceptions={BusyError: lambda _: "transient"})
    with pytest.raises(ValueError, match="a callable cannot be written to a file"):
        dump_policies(book)


# What users read


def test_unknown_exception_names_way() -> None:
    remedy = classify(BusyError("x")).remedy
    assert f'register_exceptions({{{__name__}.BusyError: "transient"}})' in remedy


def test_errors_of_handlers_at_top() -> None:
    names = ["AuthError", "NotFoundError", "PayloadError", "PermanentError", "TransientError"]
    from iii_resilience import handling

    for name in names:
        assert getattr(iii_resilience, name) is getattr(handling, name)
    for error in (TransientError("x"), PayloadError("x", code="TOO_RED")):
        assert classify(error).remedy.startswith("it was raised on purpose")


def test_classes_of_one_qualified_name_each_count() -> None:
    """As a function that makes classes makes them."""

    def made() -> type[Exception]:
        class MadeError(Exception):
            pass

        return MadeError

    first, second = made(), made()
    rules = transient_exceptions((first, second))
    assert [rules.find(kind("words")) for kind in (first, second, made())] == [
        (Category.TRANSIENT, None),
        (Category.TRANSIENT, None),
        None,
    ]


@pytest.mark.parametrize("module", ["iii", "iii.errors", "iii.errors.calls"])
def test_classes_of_sdk_go_by_their_code(module: str) -> None:
    class SdkError(Exception):
        pass

    SdkError.__module__ = module

    class OwnError(SdkError):
        pass

    OwnError.__module__ = "shop.errors"
    for kind in (SdkError, OwnError):
        with pytest.raises(ConfigError, match="goes by the code it carries: use register_codes"):
            register_exceptions({kind: "transient"})
