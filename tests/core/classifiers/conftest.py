"""Fixtures of a real PostgreSQL, which drivers' exceptions come from."""

from __future__ import annotations

from support.postgres_fixtures import postgres_of_session, postgres_server, postgres_url

__all__ = ["postgres_of_session", "postgres_server", "postgres_url"]
