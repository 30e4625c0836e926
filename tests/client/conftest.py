"""The caller's tests run against the loopback engine."""

from support.engine_fixtures import caller, connect, engine, target

__all__ = ["caller", "connect", "engine", "target"]
