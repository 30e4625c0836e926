"""The caller's tests run against the loopback engine."""

from support.engine_fixtures import caller, connect, engine, sdk_times_out_first, target

__all__ = ["caller", "connect", "engine", "sdk_times_out_first", "target"]
