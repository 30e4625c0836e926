"""Write the reference pages from the code: `make reference`.

    python docs/tools/reference_pages.py          # write docs/reference/*.md
    python docs/tools/reference_pages.py --check  # exit with 1 if a page is stale

Every page is Markdown that can also be read without the site. The API pages name the objects; the
site fills in their docstrings.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import typer
from opentelemetry import metrics

import iii_resilience
from iii_resilience.cli.app import app
from iii_resilience.config.files.fields import KINDS, FileField, fields_of
from iii_resilience.config.queue_definition import Queue
from iii_resilience.config.rules import Rule
from iii_resilience.core.backoff import Backoff
from iii_resilience.core.codes.lookup import III, LOCAL, RPC
from iii_resilience.core.codes.model import Category, Code, Execution
from iii_resilience.core.decide import Reason
from iii_resilience.core.failure import Failure
from iii_resilience.core.guards.breaker import Breaker
from iii_resilience.core.guards.budget import Budget
from iii_resilience.core.guards.bulkhead import Bulkhead
from iii_resilience.core.hints import ACTIONS, hint
from iii_resilience.core.policy import Enqueue, Reroute, RetryPolicy
from iii_resilience.telemetry.metrics import Meters

PAGES = Path(__file__).resolve().parents[1] / "reference"
PACKAGE = Path(iii_resilience.__file__).parent
_NOTE = "<!-- Written by `make reference` from the code. Do not edit. -->"


def cell(text: str) -> str:
    """A text as the cell of a table holds it."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines) + "\n"


def code(text: object) -> str:
    """A text in backquotes; nothing for an empty one."""
    return f"`{text}`" if str(text) else ""


# Policy files.

_SECTIONS = {
    RetryPolicy: ("A policy", "policies.<name>", "The fields of `RetryPolicy`."),
    Backoff: ("Backoff", "policies.<name>.backoff", "The delays between attempts."),
    Budget: ("Budget", "policies.<name>.budget", "How many retries all calls may send together."),
    Breaker: ("Breaker", "policies.<name>.breaker", "When calls are no longer sent for a while."),
    Bulkhead: ("Bulkhead", "policies.<name>.bulkhead", "How many calls may run at once."),
    Enqueue: ("Fallback to a queue", "policies.<name>.fallback", ""),
    Reroute: ("Fallback to a function", "policies.<name>.fallback", ""),
    Rule: ("A rule", "rules[]", "Which policy a function has."),
    Queue: ("A queue", "queues.<name>", "The fields of `queue::define`."),
    Code: ("A code", "codes.<code>", "A category alone stands for a whole row."),
}


def default_of(kind: type, field: FileField) -> str:
    """The default of a field, as a file would write it."""
    if field.required:
        return "required"
    attribute = getattr(attrs.fields(kind), field.name)
    default: Any = attribute.default
    if default is attrs.NOTHING:
        return "by the category"
    if hasattr(default, "factory"):
        default = default.factory()
    if type(default) in KINDS:
        return "its own defaults"
    value = field.to_file(default)
    if value is None:
        return "`null`"
    return code(str(value).lower() if isinstance(value, bool) else value)


def policy_fields() -> str:
    """The fields of policy files."""
    text = [
        "# Policy fields",
        (
            "Every key of a [policy file](../policies.md), with its default and allowed values. "
            "Times in files are whole milliseconds. Python has the same fields in seconds, without "
            "`_ms`. `wait` and `stop` of a `RetryPolicy` hold objects of tenacity, so they exist "
            "in Python only."
        ),
    ]
    if set(_SECTIONS) != set(KINDS):
        raise ValueError(
            "describe these classes of a policy file in _SECTIONS, or remove them: "
            f"{set(_SECTIONS) ^ set(KINDS)}"
        )
    for kind, (title, where, words) in _SECTIONS.items():
        rows = [
            (
                code(field.key),
                "see below" if field.check is None else field.check.allowed("`null`"),
                default_of(kind, field),
                field.meaning,
            )
            for field in fields_of(kind).values()
            if not field.hidden
        ]
        if kind is RetryPolicy:
            rows.append(
                ("`extends`", "the name of a policy", "", "The policy that it is merged over.")
            )
        text += [f"## {title}", f"At `{where}`. {words}".strip()]
        text.append(table(("key", "allowed", "default", "meaning"), rows))
    return "\n\n".join(text)


# Codes, reasons, hints.


def error_codes() -> str:
    """Every row of the code tables."""
    text = [
        "# Error codes",
        (
            "What `classify(error)` knows of every code. *Category* decides about retries: only "
            "transient failures of idempotent calls are retried. *Ran* says whether the called "
            "function may have run, by the bare code; a message can prove more. *Slower* marks "
            "codes that ask for a longer delay. A code without a row is permanent and may have "
            "run. `iii-resilience codes` prints the same rows, and `register_codes` adds your own."
        ),
    ]
    systems = (
        ("Codes of iii", "The engine, the SDK and the official workers.", III),
        ("Codes of the RPC system", "For `check_rpc`.", RPC),
        ("Codes of this library", "Raised locally; nothing was sent.", LOCAL),
    )
    for title, words, rows in systems:
        text += [f"## {title}", words]
        text.append(
            table(
                ("code", "category", "ran", "slower", "meaning", "what to do"),
                (
                    (
                        code(row.code),
                        row.category.value,
                        row.execution.value.replace("_", " "),
                        "yes" if row.throttled else "",
                        row.meaning,
                        row.remedy,
                    )
                    for row in sorted(rows.values(), key=lambda row: row.code.lower())
                ),
            )
        )
    return "\n\n".join(text)


def _meanings(name: str) -> dict[str, str]:
    """The words that docs/hints.md has for each row of one of its tables, by the first cell."""
    page = (PAGES.parent / "hints.md").read_text(encoding="utf-8")
    found = re.findall(rf"^\| `({name})` \| ([^|]+) \|", page, re.MULTILINE)
    return dict(found)


def reasons() -> str:
    """Every reason, category and action, and the hint that follows from them."""
    words = _meanings("[a-z_]+")
    actions = _meanings("[a-z-]+")
    kinds = [*Category, "throttled"]

    def action(kind: str, reason: Reason) -> str:
        category = Category.TRANSIENT if kind == "throttled" else Category(kind)
        failure = Failure(
            code="X",
            category=category,
            execution=Execution.MAYBE_EXECUTED,
            message="",
            remedy="",
            origin="engine",
            system="iii",
            throttled=kind == "throttled",
        )
        return code(hint(failure, reason).action)

    ending = [reason for reason in Reason if reason is not Reason.RETRIED]
    return "\n\n".join(
        [
            "# Reasons and hints",
            (
                "A call that fails has one `Reason` (`report_for(error).reason`) and one hint "
                "(`hint_for(error).action`). The hint follows from both the reason and the "
                "category. [Hints](../hints.md) explains the actions and the exceptions."
            ),
            "## Reasons",
            table(
                ("reason", "meaning"),
                ((code(reason.value), words.get(reason.value, "")) for reason in ending),
            ),
            "## The hint for a reason and a category",
            table(
                ("reason", *(str(kind) for kind in kinds)),
                (
                    (code(reason.value), *(action(str(kind), reason) for kind in kinds))
                    for reason in ending
                ),
            ),
            "## Actions",
            table(
                ("action", "what to do"),
                ((code(name), actions[name].replace("](", "](../")) for name in ACTIONS),
            ),
        ]
    )


# Metrics.

_SERIES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


class _Listing(mock.Mock):
    """A meter that lists what is created on it."""

    def listed(self) -> list[tuple[str, str, str, str]]:
        """Name, kind, unit and description of each instrument, in order of their names."""
        found = []
        for called, names, given in self.mock_calls:
            if called.startswith("create_"):
                kind = called.removeprefix("create_").removeprefix("observable_")
                named = [given[key] for key in ("unit", "description") if key in given]
                words = [word for word in [*names, *named] if isinstance(word, str)]
                found.append((words[0], kind, words[1], words[2]))
        return sorted(found)


def metric_names() -> str:
    """Every metric, and the series that Prometheus makes of it."""
    meter = _Listing()
    with mock.patch.object(metrics, "get_meter", return_value=meter):
        Meters()._make()

    def series(name: str, kind: str, unit: str) -> str:
        base = name.replace(".", "_") + {"s": "_seconds"}.get(unit, "")
        return ", ".join(code(base + end) for end in _SERIES[kind])

    return "\n\n".join(
        [
            "# Metrics",
            (
                "The attributes of each metric, and what they mean, are in "
                "[Observability](../telemetry.md). The series have Prometheus' default "
                "names."
            ),
            table(
                ("metric", "kind", "unit", "meaning", "series in Prometheus"),
                (
                    (code(name), kind, code(unit), description, series(name, kind, unit))
                    for name, kind, unit, description in meter.listed()
                ),
            ),
        ]
    )


# The command line.


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from _commands(inner, f"{path} {name}")
    else:
        yield path, command


def command_line() -> str:
    """Every command, with its arguments and options."""
    text = [
        "# Command line",
        (
            "`iii-resilience` needs the extra `cli`; commands that talk to an engine need `iii`, "
            "and `demo` needs `testing`: `pip install 'iii-resilience[iii,cli,testing]'`."
        ),
    ]
    for path, command in _commands(typer.main.get_command(app), "iii-resilience"):
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        usage = " ".join([path, *(f"<{one.name}>" for one in arguments), "[options]"])
        text += [f"## {path.removeprefix('iii-resilience ')}", f"```text\n{usage}\n```"]
        text.append(inspect.cleandoc(command.help or ""))
        rows = []
        for one in [*arguments, *options]:
            names = ", ".join(code(name) for name in [*one.opts, *one.secondary_opts])
            notes = [inspect.cleandoc(getattr(one, "help", None) or "")]
            if one.required and one in options:
                notes.append("Required.")
            if getattr(one, "envvar", None):
                notes.append(f"From the environment: `{one.envvar}`.")
            flag = getattr(one, "is_flag", False) or isinstance(one.default, bool)
            if not flag and one.default not in (None, (), "", ...) and not callable(one.default):
                notes.append(f"Default: `{one.default}`.")
            rows.append((names, " ".join(note for note in notes if note)))
        if rows:
            text.append(table(("argument or option", "meaning"), rows))
    return "\n\n".join(text)


# Environment variables.

_VARIABLES = {
    "III_RESILIENCE_POLICIES": (
        "The policy files of a process that does not call `use_policies`, separated as in `PATH`."
    ),
    "III_RESILIENCE_METRICS_FUNCTIONS": (
        "How many function ids metrics distinguish (2000); the rest are `_OTHER`."
    ),
    "III_URL": "The engine's address for `iii-resilience dlq`, as the SDK reads it.",
    "III_NAMESPACE": "The namespace for `iii-resilience doctor`, as the SDK reads it.",
    "III_WORKER_NAME": "The worker's name for `iii-resilience doctor`, as the SDK reads it.",
    "III_TOKEN": "Sent by `iii-resilience doctor` as the SDK sends it (0.24.6 and later).",
    "III_NAMESPACE_GRACE_MS": "How long the LoopbackEngine waits for a worker's namespace (5000).",
}


def variables() -> set[str]:
    """The environment variables that the package reads."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^III_[A-Z_]+$", node.value))
    return found


def environment() -> str:
    """The environment variables."""
    if variables() != set(_VARIABLES):
        raise ValueError(
            f"describe these in _VARIABLES, or remove them: {variables() ^ set(_VARIABLES)}"
        )
    return "\n\n".join(
        [
            "# Environment variables",
            "The library reads these variables. The SDK reads others of its own.",
            table(("variable", "meaning"), ((code(name), _VARIABLES[name]) for name in _VARIABLES)),
        ]
    )


# The API.

API = {
    "iii_resilience": (
        ("Calls", "resilient iii_retry retrying discover ensure_queue Discovery Enqueued"),
        ("Policies", "RetryPolicy Backoff Budget Breaker Bulkhead Enqueue Reroute Queue"),
        ("Policy files", "load_policies use_policies policies_from_engine PolicyBook"),
        (
            "Failures",
            (
                "classify Failure Category Execution report_for RetryReport Attempt hint_for Hint "
                "Reason Decision check_rpc register_codes register_exceptions"
            ),
        ),
        (
            "Exceptions",
            (
                "BulkheadFullError CircuitOpenError ConfigError ConnectionLostError "
                "InvalidPayloadError NotConnectedError PayloadTooLargeError RpcError "
                "TransientError PermanentError PayloadError AuthError NotFoundError"
            ),
        ),
    ),
    "iii_resilience.config": (("Policy files", "dump_policies"),),
    "iii_resilience.handling": (),
    "iii_resilience.stores": (),
    "iii_resilience.testing": (),
}
_SAME = {"iii_resilience.handling": "iii_resilience", "iii_resilience.config": "iii_resilience"}


def public(module: str) -> set[str]:
    """The public names of a module, without those that another page has."""
    names = set(importlib.import_module(module).__all__)
    if module in _SAME:
        names -= set(importlib.import_module(_SAME[module]).__all__)
    return names - {"__version__"}


def grouped(module: str) -> list[tuple[str, list[str]]]:
    """The public names of a module by heading; new ones come last."""
    rest = public(module)
    groups = []
    for title, names in API[module]:
        known = [name for name in names.split() if name in rest]
        rest -= set(known)
        groups.append((title, known))
    if rest:
        groups.append(("More" if groups else "Names", sorted(rest, key=str.lower)))
    return groups


def api(module: str) -> str:
    """The page of one module: the site fills the docstrings in."""
    text = [f"# {module}"]
    for title, names in grouped(module):
        text.append(f"## {title}")
        for name in names:
            thing = getattr(importlib.import_module(module), name)
            kind = "function"
            if isinstance(thing, type):
                kind = "exception" if issubclass(thing, BaseException) else "class"
            elif not callable(thing):
                kind = "data"
            lines = [f"```{{eval-rst}}\n.. auto{kind}:: {module}.{name}"]
            if isinstance(thing, type):
                lines.append("   :members:")
            text.append("\n".join([*lines, "```"]))
    return "\n\n".join(text)


def pages() -> dict[str, str]:
    """Every page by its name."""
    found = {
        "policy-fields.md": policy_fields(),
        "error-codes.md": error_codes(),
        "reasons.md": reasons(),
        "metrics.md": metric_names(),
        "command-line.md": command_line(),
        "environment.md": environment(),
    }
    for module in API:
        found[f"api-{module.rpartition('.')[2].replace('_', '-')}.md"] = api(module)
    return {
        name: re.sub(r"\n{3,}", "\n\n", text.replace("\n", f"\n\n{_NOTE}\n", 1)).rstrip() + "\n"
        for name, text in found.items()
    }


def stale() -> list[str]:
    """The pages that are missing or not what the code says."""
    return [
        name
        for name, text in pages().items()
        if not (PAGES / name).exists() or (PAGES / name).read_text(encoding="utf-8") != text
    ]


def main() -> None:
    """Write or check the pages."""
    if "--check" in sys.argv[1:]:
        if found := stale():
            sys.exit(f"stale, run 'make reference': {', '.join(found)}")
        return
    PAGES.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
