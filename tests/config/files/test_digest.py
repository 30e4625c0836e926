"""What files held is told apart by all of it: names, lengths and bytes."""

from __future__ import annotations

import pytest

from iii_resilience.config.files.file_source import Contents


@pytest.mark.parametrize("between", [b"\0", b"\0\0", b"\0001\0"])
def test_digest_tells_where_file_ends(between: bytes) -> None:
    one = Contents((("a", b"xb" + between + b"y"),))
    two = Contents((("a", b"x"), ("b", b"y")))
    assert one.digest != two.digest


def test_digest_of_equal_files_is_equal() -> None:
    assert Contents((("a", b"x"),)).digest == Contents((("a", b"x"),)).digest
    assert Contents((("a", b"x"),)).digest != Contents((("b", b"x"),)).digest
