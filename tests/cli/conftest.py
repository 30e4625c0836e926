"""Fixtures for commands that need an engine."""

from support.engine_fixtures import caller, connect, engine, target

__all__ = ["caller", "connect", "engine", "target"]
