"""Broken policy files, and exactly what is said of each."""

# ruff: noqa: E501 - the messages stand whole, as operators see them

from __future__ import annotations

from iii_resilience import Budget

OF_A_POLICY = "(allowed: extends, attempts, backoff, deadline_ms, attempt_timeout_ms, budget, breaker, bulkhead, fallback, retry_unexecuted, ready_timeout_ms, max_stops, max_payload_bytes"
OF_A_QUEUE = "(allowed: max_retries, concurrency, timeout_ms, backoff_ms, poll_interval_ms, type, message_group_field, redeliver_on_engine_restart"
OF_A_FILE = "(allowed: version, policies, rules, default, queues, codes, exceptions"
DENIAL = "a denial stays a denial until auth or policy change, so it is never retried"
MISSING = "calling the same id again finds nothing, so it is never retried"
ABOVE_0 = "must be a whole number of milliseconds above 0 or null, got "
NOT_USED = "anchors, aliases and tags are not used in policy files"
FUNCTION = "must be a function id, or a prefix followed by one *, got "


def policy(fields: str) -> str:
    return f"version: 1\npolicies:\n  a: {{{fields}}}\n"


def rule(fields: str) -> str:
    return f"version: 1\nrules:\n  - {{{fields}}}\n"


def queue(fields: str) -> str:
    return f"version: 1\nqueues:\n  q: {{{fields}}}\n"


def code(row: str) -> str:
    return f"version: 1\ncodes:\n  {row}\n"


BROKEN: list[tuple[str, str | bytes, list[str]]] = [
    (
        "an empty file",
        "",
        [
            "the file: must be a mapping with version, policies, rules, default, queues, codes and exceptions, got null"
        ],
    ),
    (
        "a list",
        "[]",
        [
            "1:1: the file: must be a mapping with version, policies, rules, default, queues, codes and exceptions, got a list"
        ],
    ),
    (
        "a text",
        "hello",
        [
            "1:1: the file: must be a mapping with version, policies, rules, default, queues, codes and exceptions, got 'hello'"
        ],
    ),
    ("no version", "policies: {}", ["1:1: version: must be 1, the only version there is"]),
    (
        "another version",
        "version: 2",
        ["1:1: version: must be 1, the only version there is, got 2"],
    ),
    (
        "a version in quotes",
        "version: '1'",
        ["1:1: version: must be 1, the only version there is, got '1'"],
    ),
    (
        "a version that is true",
        "version: true",
        ["1:1: version: must be 1, the only version there is, got true"],
    ),
    (
        "a version that is a float",
        "version: 1.0",
        ["1:1: version: must be 1, the only version there is, got 1.0"],
    ),
    (
        "an unknown section",
        "version: 1\npolices: {}",
        [f"2:1: polices: is not a key of a policy file {OF_A_FILE}; did you mean 'policies'?)"],
    ),
    (
        "a section in capitals",
        "version: 1\nRules: []",
        [f"2:1: Rules: is not a key of a policy file {OF_A_FILE}; did you mean 'rules'?)"],
    ),
    ("keys that are numbers", "version: 1\n2: {}", ["2:1: keys must be text, got 2"]),
    ("a key that is a list", "version: 1\n? [a]\n: 1", ["2:3: keys must be text, got a list"]),
    (
        "a section given twice",
        "version: 1\npolicies: {}\npolicies: {}",
        ["3:1: policies: is given twice (first in line 2)"],
    ),
    (
        "a policy given twice",
        "version: 1\npolicies:\n  a: {}\n  b: {}\n  a: {}",
        ["5:3: policies.a: is given twice (first in line 3)"],
    ),
    (
        "a field given twice",
        "version: 1\npolicies:\n  a: {attempts: 1, attempts: 2}",
        ["3:20: policies.a.attempts: is given twice (first in line 3)"],
    ),
    (
        "two documents",
        "version: 1\n---\nversion: 1",
        ["2:1: a second document begins here: a policy file has one"],
    ),
    ("no YAML", "version: 1: 2", ["1:11: mapping values are not allowed here"]),
    (
        "an open bracket",
        "version: 1\npolicies: {a: {",
        ["2:16: expected the node content, but found '<stream end>'"],
    ),
    (
        "a tab for indentation",
        "version: 1\npolicies:\n\ta: {}",
        ["3:1: found character '\\t' that cannot start any token"],
    ),
    ("an anchor", "version: 1\npolicies:\n  a: &a {}", [f"3:6: policies.a: {NOT_USED}"]),
    ("an alias", "version: 1\npolicies:\n  a: *a", [f"3:6: policies.a: {NOT_USED}"]),
    ("a bomb of aliases", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", [f"1:4: a: {NOT_USED}"]),
    (
        "a merge key",
        "version: 1\npolicies:\n  a: {<<: {attempts: 2}}",
        [f"3:7: policies.a.<<: is not a key of a policy {OF_A_POLICY})"],
    ),
    ("a tag", "version: !!int 1", [f"1:10: version: {NOT_USED}"]),
    (
        "a tag of Python",
        "version: 1\npolicies: !!python/object/apply:os.system [ls]",
        [f"2:11: policies: {NOT_USED}"],
    ),
    ("a tag of its own", "version: 1\npolicies: !mine {}", [f"2:11: policies: {NOT_USED}"]),
    ("seventeen levels", "[" * 17 + "]" * 17, ["1:17: is nested too deep (at most 16 levels)"]),
    ("levels without end", "[" * 500_000, ["1:17: is nested too deep (at most 16 levels)"]),
    ("mappings without end", "{a: " * 200_000, ["1:65: is nested too deep (at most 16 levels)"]),
    ("lists without end", "- " * 400_000, ["1:33: is nested too deep (at most 16 levels)"]),
    (
        "parts without end",
        "version: 1\nrules: [" + "1," * 210_000 + "]",
        ["2:399999: has too many parts (at most 200000)"],
    ),
    (
        "a number of five thousand digits",
        "version: " + "9" * 5_000,
        ["1:10: version: is a number of 5000 digits (at most 100)"],
    ),
    ("bytes that are no text", b"\xff", ["is not a text in UTF-8 or UTF-16: invalid start byte"]),
    (
        "bytes that are no UTF-8",
        b"version: \xc3(",
        ["is not a text in UTF-8 or UTF-16: invalid continuation byte"],
    ),
    (
        "a zero byte",
        b"version: 1\x00",
        ["is not a text in UTF-8 or UTF-16: special characters are not allowed"],
    ),
    (
        "policies in a list",
        "version: 1\npolicies: []",
        ["2:1: policies: must be a mapping of names to policies, got a list"],
    ),
    (
        "policies that are a text",
        "version: 1\npolicies: all",
        ["2:1: policies: must be a mapping of names to policies, got 'all'"],
    ),
    (
        "a policy that is a number",
        "version: 1\npolicies:\n  a: 5",
        ["3:3: policies.a: must be a mapping, got 5"],
    ),
    (
        "a policy that is nothing",
        "version: 1\npolicies:\n  a:",
        ["3:3: policies.a: must be a mapping, got null"],
    ),
    (
        "a policy named by a number",
        "version: 1\npolicies:\n  1: {}",
        ["3:3: policies: keys must be text, got 1"],
    ),
    (
        "no attempts",
        policy("attempts: 0"),
        ["3:7: policies.a.attempts: must be a whole number at least 1, got 0"],
    ),
    (
        "negative attempts",
        policy("attempts: -1"),
        ["3:7: policies.a.attempts: must be a whole number at least 1, got -1"],
    ),
    (
        "half an attempt",
        policy("attempts: 2.5"),
        ["3:7: policies.a.attempts: must be a whole number at least 1, got 2.5"],
    ),
    (
        "attempts in words",
        policy("attempts: many"),
        ["3:7: policies.a.attempts: must be a whole number at least 1, got 'many'"],
    ),
    (
        "attempts that are true",
        policy("attempts: true"),
        ["3:7: policies.a.attempts: must be a whole number at least 1, got true"],
    ),
    (
        "attempts that are null",
        policy("attempts: null"),
        ["3:7: policies.a.attempts: must be a whole number at least 1, got null"],
    ),
    (
        "a misspelt field",
        policy("atempts: 3"),
        [
            f"3:7: policies.a.atempts: is not a key of a policy {OF_A_POLICY}; did you mean 'attempts'?)"
        ],
    ),
    (
        "a field in seconds",
        policy("deadline: 5"),
        [
            f"3:7: policies.a.deadline: is not a key of a policy {OF_A_POLICY}; did you mean 'deadline_ms'?)"
        ],
    ),
    (
        "a field in another style",
        policy("deadlineMs: 5000"),
        [
            f"3:7: policies.a.deadlineMs: is not a key of a policy {OF_A_POLICY}; did you mean 'deadline_ms'?)"
        ],
    ),
    (
        "a field of tenacity",
        policy("wait: 5"),
        [
            f"3:7: policies.a.wait: takes an object of tenacity and can only be set in code {OF_A_POLICY})"
        ],
    ),
    (
        "a deadline of nothing",
        policy("deadline_ms: 0"),
        [f"3:7: policies.a.deadline_ms: {ABOVE_0}0"],
    ),
    (
        "a negative deadline",
        policy("deadline_ms: -5"),
        [f"3:7: policies.a.deadline_ms: {ABOVE_0}-5"],
    ),
    (
        "half a millisecond",
        policy("deadline_ms: 1.5"),
        [f"3:7: policies.a.deadline_ms: {ABOVE_0}1.5"],
    ),
    ("a unit", policy("deadline_ms: 5s"), [f"3:7: policies.a.deadline_ms: {ABOVE_0}'5s'"]),
    (
        "a deadline that is not a number",
        policy("deadline_ms: .nan"),
        [f"3:7: policies.a.deadline_ms: {ABOVE_0}nan"],
    ),
    (
        "an endless deadline",
        policy("deadline_ms: .inf"),
        [f"3:7: policies.a.deadline_ms: {ABOVE_0}inf"],
    ),
    (
        "an attempt longer than the deadline",
        policy("attempt_timeout_ms: 2000, deadline_ms: 1234"),
        [
            "3:7: policies.a.attempt_timeout_ms: is 2000 ms and must not be above deadline_ms (1234 ms): one attempt would outlast the call"
        ],
    ),
    (
        "an attempt longer than the default deadline",
        policy("attempt_timeout_ms: 61000"),
        [
            "3:7: policies.a.attempt_timeout_ms: is 61000 ms and must not be above deadline_ms (60000 ms): one attempt would outlast the call"
        ],
    ),
    (
        "a negative wait for the connection",
        policy("ready_timeout_ms: -1"),
        [
            "3:7: policies.a.ready_timeout_ms: must be a whole number of milliseconds at least 0, got -1"
        ],
    ),
    (
        "no stops",
        policy("max_stops: 0"),
        ["3:7: policies.a.max_stops: must be a whole number at least 1, got 0"],
    ),
    (
        "a payload of no bytes",
        policy("max_payload_bytes: 0"),
        [
            "3:7: policies.a.max_payload_bytes: must be a whole number of bytes at least 1 or null, got 0"
        ],
    ),
    (
        "a flag that is a number",
        policy("retry_unexecuted: 1"),
        ["3:7: policies.a.retry_unexecuted: must be true or false, got 1"],
    ),
    (
        "a flag in YAML 1.1",
        policy("retry_unexecuted: yes"),
        ["3:7: policies.a.retry_unexecuted: must be true or false, got 'yes'"],
    ),
    (
        "backoff that is a number",
        policy("backoff: 5"),
        ["3:7: policies.a.backoff: must be a mapping, got 5"],
    ),
    (
        "backoff that is null",
        policy("backoff: null"),
        ["3:7: policies.a.backoff: must be a mapping, got null"],
    ),
    (
        "a base above the cap",
        policy("backoff: {base_ms: 500, cap_ms: 400}"),
        ["3:17: policies.a.backoff.base_ms: is 500 ms and must not be above cap_ms (400 ms)"],
    ),
    (
        "a base above the default cap",
        policy("backoff: {base_ms: 30000}"),
        ["3:17: policies.a.backoff.base_ms: is 30000 ms and must not be above cap_ms (20000 ms)"],
    ),
    (
        "a cap below a base that is the default",
        policy("backoff: {base_ms: 200, cap_ms: 100}"),
        ["3:17: policies.a.backoff.base_ms: is 200 ms and must not be above cap_ms (100 ms)"],
    ),
    (
        "a throttled base above the cap",
        policy("backoff: {cap_ms: 800, throttled_base_ms: 900}"),
        [
            "3:30: policies.a.backoff.throttled_base_ms: is 900 ms and must not be above cap_ms (800 ms)"
        ],
    ),
    (
        "a factor below one",
        policy("backoff: {factor: 0.5}"),
        ["3:17: policies.a.backoff.factor: must be a finite number at least 1, got 0.5"],
    ),
    (
        "a factor that is not a number",
        policy("backoff: {factor: .nan}"),
        ["3:17: policies.a.backoff.factor: must be a finite number at least 1, got nan"],
    ),
    (
        "an unknown jitter",
        policy("backoff: {jitter: ful}"),
        [
            "3:17: policies.a.backoff.jitter: must be one of full, equal, decorrelated, none, got 'ful'; did you mean 'full'?"
        ],
    ),
    (
        "backoff in seconds",
        policy("backoff: {base: 1}"),
        [
            "3:17: policies.a.backoff.base: is not a key of a backoff (allowed: base_ms, factor, cap_ms, throttled_base_ms, jitter; did you mean 'base_ms'?)"
        ],
    ),
    (
        "a budget that is a number",
        policy("budget: 0.2"),
        ["3:7: policies.a.budget: must be a mapping or null, got 0.2"],
    ),
    (
        "a negative ratio",
        policy("budget: {ratio: -0.1}"),
        [
            "3:16: policies.a.budget.ratio: must be a finite number at least 0 and at most 1, got -0.1"
        ],
    ),
    (
        "an endless ratio",
        policy("budget: {ratio: .inf}"),
        [
            "3:16: policies.a.budget.ratio: must be a finite number at least 0 and at most 1, got inf"
        ],
    ),
    (
        "a budget with a window",
        policy("budget: {window_ms: 10000, min_per_second: 10}"),
        [f"3:16: policies.a.budget.window_ms: is refused: {Budget.REMOVED['window']}"],
    ),
    (
        "a budget's ratio in per cent",
        policy("budget: {ratio: 20}"),
        ["3:16: policies.a.budget.ratio: must be a finite number at least 0 and at most 1, got 20"],
    ),
    (
        "a budget without a permit",
        policy("budget: {burst: 0}"),
        ["3:16: policies.a.budget.burst: must be a finite number at least 1, got 0"],
    ),
    (
        "a budget's private field",
        policy("budget: {_states: {}}"),
        [
            "3:16: policies.a.budget._states: is not a key of a budget (allowed: ratio, burst, min_per_second)"
        ],
    ),
    (
        "a failure rate above one",
        policy("breaker: {failure_rate: 50}"),
        [
            "3:17: policies.a.breaker.failure_rate: must be a finite number above 0 and at most 1, got 50"
        ],
    ),
    (
        "a breaker without probes",
        policy("breaker: {probes: 0}"),
        ["3:17: policies.a.breaker.probes: must be a whole number at least 1, got 0"],
    ),
    (
        "a breaker in seconds",
        policy("breaker: {open: 10}"),
        [
            "3:17: policies.a.breaker.open: is not a key of a breaker (allowed: failure_rate, window_ms, min_calls, open_ms, probes, slow_call_ms; did you mean 'open_ms'?)"
        ],
    ),
    (
        "a bulkhead without a limit",
        policy("bulkhead: {}"),
        ["3:7: policies.a.bulkhead: needs limit"],
    ),
    (
        "a queue nobody may wait in",
        policy("bulkhead: {limit: 4, queue: 8}"),
        [
            "3:28: policies.a.bulkhead.queue: queue (8) and wait_ms (0 ms) must be given together, or neither: with one of them alone no call could ever wait"
        ],
    ),
    (
        "a fallback to nothing",
        policy("fallback: {}"),
        ["3:7: policies.a.fallback: needs enqueue or reroute"],
    ),
    (
        "a fallback that is a name",
        policy("fallback: later"),
        ["3:7: policies.a.fallback: must be a mapping or null, got 'later'"],
    ),
    (
        "a fallback in other words",
        policy("fallback: {queue: later}"),
        [
            "3:7: policies.a.fallback: needs enqueue or reroute",
            "3:18: policies.a.fallback.queue: is not a key of a fallback (allowed: enqueue, reroute; did you mean 'enqueue'?)",
        ],
    ),
    (
        "a fallback to a queue without a name",
        policy("fallback: {enqueue: ''}"),
        ["3:18: policies.a.fallback.enqueue: must be the name of a queue, got ''"],
    ),
    (
        "a fallback both ways",
        policy("fallback: {enqueue: q, reroute: f}"),
        [
            "3:30: policies.a.fallback.reroute: cannot be given too: a call goes either way (enqueue or reroute)"
        ],
    ),
    (
        "a fallback to a function that is none",
        policy("fallback: {reroute: 5}"),
        ["3:18: policies.a.fallback.reroute: must be the id of a function, got 5"],
    ),
    (
        "a namespace that is none",
        policy("fallback: {reroute: f, namespace: ''}"),
        ["3:30: policies.a.fallback.namespace: must be a name or null, got ''"],
    ),
    (
        "extending nothing",
        policy("extends: b"),
        ["3:7: policies.a.extends: names no policy: 'b' (there are: a, default)"],
    ),
    (
        "extending what is misspelt",
        "version: 1\npolicies:\n  interactive: {}\n  a: {extends: interactve}",
        [
            "4:7: policies.a.extends: names no policy: 'interactve' (there are: a, default, interactive; did you mean 'interactive'?)"
        ],
    ),
    (
        "extending two",
        policy("extends: [a, b]"),
        ["3:7: policies.a.extends: names no policy: a list (there are: a, default)"],
    ),
    (
        "extending null",
        policy("extends: null"),
        ["3:7: policies.a.extends: names no policy: null (there are: a, default)"],
    ),
    ("extending itself", policy("extends: a"), ["3:7: policies.a.extends: extends itself: a -> a"]),
    (
        "a circle",
        "version: 1\npolicies:\n  a: {extends: b}\n  b: {extends: a}\n  c: {extends: a}",
        [
            "3:7: policies.a.extends: extends itself: a -> b -> a",
            "4:7: policies.b.extends: extends itself: b -> a -> b",
        ],
    ),
    (
        "a policy that retries a denial",
        policy("retry_on: [FORBIDDEN, TIMEOUT]"),
        [
            f"3:7: policies.a.retry_on: is refused: nothing makes FORBIDDEN retryable: {DENIAL} {OF_A_POLICY})"
        ],
    ),
    (
        "a policy that retries what is missing",
        policy("codes: {function_not_found: transient}"),
        [
            f"3:7: policies.a.codes: is refused: nothing makes function_not_found retryable: {MISSING} {OF_A_POLICY})"
        ],
    ),
    (
        "rules in a mapping",
        "version: 1\nrules: {}",
        ["2:1: rules: must be a list of {function, policy, idempotent}, got a mapping"],
    ),
    (
        "a rule that is a text",
        "version: 1\nrules: [payments]",
        ["2:9: rules.0: must be a mapping, got 'payments'"],
    ),
    ("a rule without a function", rule("policy: default"), ["3:5: rules.0: needs function"]),
    ("a rule for a number", rule("function: 5"), [f"3:6: rules.0.function: {FUNCTION}5"]),
    ("a rule for nothing", rule("function: ''"), [f"3:6: rules.0.function: {FUNCTION}''"]),
    (
        "a rule with a star in the middle",
        rule("function: 'a*b'"),
        [f"3:6: rules.0.function: {FUNCTION}'a*b'"],
    ),
    ("a rule with two stars", rule("function: 'a**'"), [f"3:6: rules.0.function: {FUNCTION}'a**'"]),
    (
        "a rule for an unknown policy",
        rule("function: f, policy: defualt"),
        [
            "3:19: rules.0.policy: names no policy: 'defualt' (there are: default; did you mean 'default'?)"
        ],
    ),
    (
        "a rule for a policy that is a list",
        rule("function: f, policy: [default]"),
        ["3:19: rules.0.policy: must be the name of a policy or null, got a list"],
    ),
    (
        "a rule that is half true",
        rule("function: f, idempotent: 'no'"),
        ["3:19: rules.0.idempotent: must be true or false, got 'no'"],
    ),
    (
        "a rule with a policy's field",
        rule("function: f, attempts: 3"),
        ["3:19: rules.0.attempts: is not a key of a rule (allowed: function, policy, idempotent)"],
    ),
    (
        "a rule that retries a denial",
        rule("function: f, code: FORBIDDEN, idempotent: true"),
        [
            f"3:19: rules.0.code: is refused: nothing makes FORBIDDEN retryable: {DENIAL} (allowed: function, policy, idempotent)"
        ],
    ),
    (
        "a rule with two mistakes",
        rule("function: f, policy: b, idempotent: 0"),
        [
            "3:19: rules.0.policy: names no policy: 'b' (there are: default)",
            "3:30: rules.0.idempotent: must be true or false, got 0",
        ],
    ),
    (
        "an unknown default",
        "version: 1\ndefault: x",
        ["2:1: default: names no policy: 'x' (there are: default)"],
    ),
    (
        "a default that is null",
        "version: 1\ndefault:",
        ["2:1: default: names no policy: null (there are: default)"],
    ),
    (
        "a default that is a list",
        "version: 1\ndefault: [x]",
        ["2:1: default: names no policy: a list (there are: default)"],
    ),
    (
        "queues in a list",
        "version: 1\nqueues: [q]",
        ["2:1: queues: must be a mapping of names to queues, got a list"],
    ),
    (
        "a queue that is nothing",
        "version: 1\nqueues:\n  q:",
        ["3:3: queues.q: must be a mapping, got null"],
    ),
    (
        "a misspelt field of a queue",
        queue("max_retires: 3"),
        [
            f"3:7: queues.q.max_retires: is not a key of a queue {OF_A_QUEUE}; did you mean 'max_retries'?)"
        ],
    ),
    (
        "a queue's name in its fields",
        queue("name: q"),
        [f"3:7: queues.q.name: is not a key of a queue {OF_A_QUEUE})"],
    ),
    (
        "a queue for nobody",
        queue("concurrency: 0"),
        [
            "3:7: queues.q.concurrency: must be a whole number at least 1 and at most 4294967295, got 0"
        ],
    ),
    (
        "more retries than the worker can count",
        queue("max_retries: 4294967296"),
        [
            "3:7: queues.q.max_retries: must be a whole number at least 0 and at most 4294967295, got 4294967296"
        ],
    ),
    (
        "a queue without time",
        queue("timeout_ms: 0"),
        ["3:7: queues.q.timeout_ms: must be a whole number of milliseconds at least 1, got 0"],
    ),
    (
        "a queue in seconds",
        queue("timeout_ms: 1.5"),
        ["3:7: queues.q.timeout_ms: must be a whole number of milliseconds at least 1, got 1.5"],
    ),
    (
        "an unknown type of queue",
        queue("type: lifo"),
        ["3:7: queues.q.type: must be one of standard, fifo, got 'lifo'; did you mean 'fifo'?"],
    ),
    (
        "order without groups",
        queue("type: fifo"),
        [
            "3:3: queues.q.message_group_field: must be given for a queue of type fifo, whose messages without a group are never delivered, and for no other"
        ],
    ),
    (
        "groups without order",
        queue("message_group_field: id"),
        [
            "3:7: queues.q.message_group_field: must be given for a queue of type fifo, whose messages without a group are never delivered, and for no other"
        ],
    ),
    (
        "codes in a list",
        "version: 1\ncodes: [MINE]",
        ["2:1: codes: must be a mapping of codes to their category and remedy, got a list"],
    ),
    (
        "a denial made transient",
        code("FORBIDDEN: {category: transient, remedy: again}"),
        [f"3:3: codes.FORBIDDEN: cannot be redefined: {DENIAL}"],
    ),
    (
        "a denial made permanent",
        code("FORBIDDEN: permanent"),
        [f"3:3: codes.FORBIDDEN: cannot be redefined: {DENIAL}"],
    ),
    (
        "what is missing made transient",
        code("function_not_found: {category: transient}"),
        [f"3:3: codes.function_not_found: cannot be redefined: {MISSING}"],
    ),
    (
        "a built-in code redefined",
        code("TIMEOUT: {category: permanent}"),
        ["3:3: codes.TIMEOUT: is a built-in code and cannot be redefined"],
    ),
    (
        "a code without a category",
        code("MINE: {remedy: restock}"),
        ["3:3: codes.MINE: needs category"],
    ),
    (
        "an unknown category",
        code("MINE: {category: temporary}"),
        [
            "3:10: codes.MINE.category: must be one of transient, auth, not-found, payload, permanent, got 'temporary'"
        ],
    ),
    (
        "an unknown category in short",
        code("MINE: temporary"),
        [
            "3:3: codes.MINE: category 'temporary' is none of transient, auth, not-found, payload, permanent"
        ],
    ),
    (
        "a misspelt field of a code",
        code("MINE: {category: transient, retryable: true}"),
        [
            "3:31: codes.MINE.retryable: is not a key of a code (allowed: category, execution, origin, remedy, meaning, source, system, throttled, queue)"
        ],
    ),
    (
        "a code that is half throttled",
        code("MINE: {category: transient, throttled: 1}"),
        ["3:31: codes.MINE.throttled: must be true or false, got 1"],
    ),
    (
        "a code that is too long",
        "version: 1\ncodes:\n  " + "M" * 129 + ": transient",
        [f"3:3: codes.{'M' * 129}: a code has at most 128 characters"],
    ),
]
