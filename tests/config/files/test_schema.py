"""The JSON Schema of policy files: made from the classes, and of one mind with the checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft7Validator
from support.broken_policy_files import BROKEN
from support.paths import ROOT
from support.policies_to_write import books

from iii_resilience import PolicyBook
from iii_resilience.config.files import schema
from iii_resilience.config.files.fields import KINDS, keys_of
from iii_resilience.config.load import dump_policies

VALIDATOR = Draft7Validator(schema.schema())


def test_schema_is_one() -> None:
    Draft7Validator.check_schema(schema.schema())


def test_file_is_up_to_date() -> None:
    written = (ROOT / "policies" / "schema.json").read_text(encoding="utf-8")
    assert written == schema.text(), "policies/schema.json is stale: run 'make schema'"


def test_run_as_module_it_prints_what_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    schema.main()
    assert capsys.readouterr().out == schema.text()


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.yaml")), ids=lambda p: p.name)
def test_ready_made_files_follow_it_and_point_to_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    VALIDATOR.validate(yaml.safe_load(text))


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(books())
def test_every_book_that_is_written_follows_it(book: PolicyBook) -> None:
    VALIDATOR.validate(yaml.safe_load(dump_policies(book)))


def test_it_knows_every_key_and_says_what_each_is_for() -> None:
    definitions = schema.schema()["definitions"]
    for kind in KINDS:
        made = definitions[kind.__name__]
        assert list(made["properties"]) == keys_of(kind)
        assert made["description"]
        for key, about in made["properties"].items():
            assert len(about["description"]) > 10, key
            if key.endswith("_ms"):
                assert "illiseconds" in about["description"], key
                assert "integer" in about["type"]


# What only the whole book shows, what YAML itself forbids, and what JSON cannot tell apart.
BEYOND_A_SCHEMA = {
    *("a version that is a float", "a section given twice", "a policy given twice"),
    *("a field given twice", "an attempt longer than the deadline", "a base above the cap"),
    *("an attempt longer than the default deadline", "a base above the default cap"),
    *("a cap below a base that is the default", "a throttled base above the cap"),
    *("a factor that is not a number", "a bulkhead without a limit", "an endless ratio"),
    *("a queue nobody may wait in", "extending nothing", "extending what is misspelt"),
    *("extending itself", "a circle", "a rule for an unknown policy", "an unknown default"),
    *("order without groups", "groups without order", "a denial made transient"),
    *("a denial made permanent", "what is missing made transient", "a built-in code redefined"),
    *("a flag in YAML 1.1", "a rule that is half true", "a merge key", "an anchor", "a tag"),
    *("a policy named by a number",),
}


def readable() -> list[tuple[str, Any]]:
    found = []
    for name, text, _ in BROKEN:
        if len(text) < 2_000 and name not in BEYOND_A_SCHEMA:
            try:
                data = yaml.safe_load(text)
            except (yaml.YAMLError, UnicodeDecodeError):
                continue
            found.append((name, data))
    return found


READABLE = readable()


@pytest.mark.parametrize("data", [data for _, data in READABLE], ids=[name for name, _ in READABLE])
def test_what_it_can_know_to_be_broken_it_refuses(data: Any) -> None:
    assert not VALIDATOR.is_valid(data)


def test_it_can_know_most_of_what_is_broken() -> None:
    assert len(READABLE) > 75
