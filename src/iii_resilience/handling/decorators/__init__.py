"""Decorators for handlers: `idempotent`, `consumer` and `reports_errors`. Private."""
