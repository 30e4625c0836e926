"""An exception of a block becomes another one, or passes as it is."""

from __future__ import annotations

import pytest

from iii_resilience.core.error_translation import ErrorTranslation


def translate(error: Exception) -> None:
    if error.args == (1,):
        raise LookupError("translated") from None


def test_exception_is_raised_as_what_it_means() -> None:
    with pytest.raises(LookupError, match="translated"), ErrorTranslation(translate):
        raise KeyError(1)


@pytest.mark.parametrize("error", [TypeError("own"), KeyboardInterrupt()])
def test_what_is_not_translated_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, ErrorTranslation(translate):
        raise error
    assert caught.value is error


def test_block_without_exception_ends_as_it_is() -> None:
    with ErrorTranslation(translate) as given:
        assert given is None
