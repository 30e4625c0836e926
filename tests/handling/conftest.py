"""The handlers' tests run against the loopback engine."""

from engine_fixtures import caller, connect, engine, target

__all__ = ["caller", "connect", "engine", "target"]
