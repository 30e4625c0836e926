"""Decorators that need arguments, used without."""

from __future__ import annotations

import re
from typing import Any

import pytest

from iii_resilience.handling import consumer, idempotent


@pytest.mark.parametrize(
    ("decorator", "words"),
    [
        (consumer, "@consumer needs its arguments: write @consumer(parking=store, key='order_id')"),
        (idempotent, "@idempotent needs its arguments: write @idempotent(store, key='order_id')"),
    ],
)
def test_bare_decorator_says_how_it_is_written(decorator: Any, words: str) -> None:
    def handler(payload: Any) -> None:
        pass

    with pytest.raises(TypeError, match=re.escape(words)):
        decorator(handler)
