"""Sizes: attributes of a class, parameters of a function, lines of a file; exceptions by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import iii_resilience

PACKAGE = Path(iii_resilience.__file__).parent

MOST_ATTRIBUTES = 12
MOST_PARAMETERS = 8
MOST_LINES = 450

# What is larger, and the reason. One that is no longer larger has to go from here.
LARGE_CLASSES = {
    "Failure": "a data class: one row of what is known of a failure",
    "RetryPolicy": "a data class: the settings of a policy",
    "ParkedMessage": "a data class: one recorded row",
    "QueuedMessage": "a data class: one message as the queue keeps it",
}
LARGE_FUNCTIONS = {
    "cli/simulate_command.py simulate": "a command: a parameter for each of its options",
}
LONG_FILES = {
    "core/codes/engine_codes.py": "a table: data",
    "core/codes/workers.py": "a table: data",
}


def files() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Each class and function with its file and qualified name."""

    def inside(parent: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                joint = "" if name.endswith(" ") else "."
                yield f"{name}{joint}{node.name}", node
                yield from inside(node, f"{name}{joint}{node.name}")
            else:
                yield from inside(node, name)

    for file, text in files():
        yield from inside(ast.parse(text), f"{file} ")


def attributes(node: ast.ClassDef) -> set[str]:
    """The fields of an attrs class, and what any class assigns to `self`."""
    decorated = any("attrs." in ast.unparse(each) for each in node.decorator_list)
    fields = {
        each.target.id
        for each in node.body
        if decorated
        and isinstance(each, ast.AnnAssign)
        and isinstance(each.target, ast.Name)
        and "ClassVar" not in ast.unparse(each.annotation)
    }
    return fields | {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many a caller may give."""
    args = node.args
    names = [each.arg for each in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    return len([n for n in names if n not in {"self", "cls"}]) + sum(
        each is not None for each in (args.vararg, args.kwarg)
    )


def test_no_class_has_too_many_attributes() -> None:
    large = {
        node.name
        for _, node in nodes()
        if isinstance(node, ast.ClassDef) and len(attributes(node)) > MOST_ATTRIBUTES
    }
    assert large == LARGE_CLASSES.keys()


def test_no_function_has_too_many_parameters() -> None:
    large = {
        name
        for name, node in nodes()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and parameters(node) > MOST_PARAMETERS
    }
    assert large == LARGE_FUNCTIONS.keys()


def test_no_file_of_logic_is_too_long() -> None:
    long = {file for file, text in files() if len(text.splitlines()) > MOST_LINES}
    assert long == LONG_FILES.keys()


def test_what_is_counted_is_what_a_reader_counts() -> None:
    text = """
@attrs.define
class Counted:
    one: int
    shared: ClassVar[int] = 0

    def __init__(self, a, /, b, *c, d=1, **e):
        self.two, (self.three, other.no) = a, b
        self.one += 1
        self.two.no = 2
        with d as self.four:
            pass
"""
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.ClassDef)
    assert attributes(node) == {"one", "two", "three", "four"}
    method = node.body[2]
    assert isinstance(method, ast.FunctionDef)
    assert parameters(method) == 5
