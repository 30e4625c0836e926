"""Counts of events, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from iii_resilience.core.event_count import EventCount


def test_each_event_counts_once() -> None:
    count = EventCount()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(500):
            threads.submit(count.add)
    assert count.value == 500
