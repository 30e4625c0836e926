"""What is told is looked at through OpenTelemetry's own SDK, and against the loopback engine."""

from support.engine_fixtures import caller, connect, engine, target
from support.telemetry_fixtures import clean_globals, seen

__all__ = ["caller", "clean_globals", "connect", "engine", "seen", "target"]
