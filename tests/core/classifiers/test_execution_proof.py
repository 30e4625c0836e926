"""When a message proves that a denied call ran nothing, that something ran, or neither."""

from __future__ import annotations

import pytest
from support.short_names import EX, ME, NE

from iii_resilience.core.classifiers.execution_proof import execution
from iii_resilience.core.codes.model import Execution


@pytest.mark.parametrize(
    ("message", "called", "said"),
    [
        # The engine's and the SDKs' own sentences.
        ("Function a::b not found in namespace default", "a::b", NE),
        ("Function a::b not found in namespace default", "a::c", EX),
        ("Function a::b not found in namespace default", None, ME),
        ("Function 'a::b' not found", "a::b", NE),
        ("function a::b not found.", "a::b", NE),
        ("Function 'a::b' not allowed (add to rbac.expose_functions)", "a::b", NE),
        ("Function 'a::b' not allowed in namespace blue", "a::c", EX),
        ("Function a::b is not visible to this session", "a::b", NE),
        # Any other sentence: the id as a whole word.
        ("cannot reach a::b now", "a::b", NE),
        ("cannot reach a::b: gone", "a::b", NE),
        ("cannot reach a::b.", "a::b", NE),
        ("cannot reach a::b:", "a::b", NE),
        ("a::b", "a::b", NE),
        ("a::b cannot be reached", "a::b", NE),
        ("cannot reach a::bc", "a::b", EX),
        ("cannot reach xa::b", "a::b", EX),
        ("cannot reach a::b::c", "a::b", EX),
        ("cannot reach a::b and c::d", "a::b", ME),
        ("cannot reach it", "a::b", ME),
        # An id without the two colons is only found by looking for it.
        ("cannot reach save", "save", NE),
        ("save cannot be reached", "save", NE),
        ("cannot reach save.", "save", NE),
        ("cannot reach save. Try again", "save", NE),
        ("cannot reach save: gone", "save", NE),
        ("cannot reach save:", "save", NE),
        ("cannot reach save.x", "save", ME),
        ("cannot reach save:x", "save", ME),
        ("cannot reach saved", "save", ME),
        ("cannot reach unsave", "save", ME),
        ("cannot reach my-save", "save", ME),
        ("cannot reach my_save", "save", ME),
        ("cannot reach my/save", "save", ME),
        ("cannot reach saved, nor save", "save", NE),
        ("cannot reach unsave; save", "save", NE),
        ("unsave save unsave", "save", NE),
        ("aaa aa", "aa", NE),
        ("aaaa", "aa", ME),
        ("(save)", "save", NE),
        ("Xsave", "save", ME),
        ("saveX", "save", ME),
        ("save X::y", "save", ME),
        ("saveX is gone", "save", ME),
        ("cannot reach x$$$", "$$", NE),
        # Nothing that could be found.
        ("gone: (it) ", "", ME),
        ("anything", "", ME),
    ],
)
def test_only_message_naming_target_proves_not_executed(
    message: str, called: str | None, said: Execution
) -> None:
    assert execution(message, called) is said


@pytest.mark.parametrize(
    ("message", "namespace", "said"),
    [
        ("namespace 'blue' not allowed for this session", "blue", NE),
        ("namespace 'blue' not allowed for this session", "green", EX),
        ("namespace 'blue' not allowed for this session", None, ME),
        ("namespace blue is not allowed", "blue", ME),
    ],
)
def test_namespace_is_believed_as_function_is(
    message: str, namespace: str | None, said: Execution
) -> None:
    assert execution(message, None, namespace) is said


def test_only_beginning_of_message_is_looked_at() -> None:
    assert execution(" " * 8188 + "a::b", "a::b") is NE
    assert execution(" " * 8192 + "a::b", "a::b") is ME
