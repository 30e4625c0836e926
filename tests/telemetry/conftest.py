"""What is told is looked at through OpenTelemetry's own SDK, and against the loopback engine."""

from engine_fixtures import caller, connect, engine, target
from telemetry_fixtures import clean_globals, seen

__all__ = ["caller", "clean_globals", "connect", "engine", "seen", "target"]
