"""What the details of a library's exception make of its row."""

from __future__ import annotations

import errno

import pytest

from iii_resilience import Category, Execution, Failure, classify
from iii_resilience.core.classifiers.library_details import of_category

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
