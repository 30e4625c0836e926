"""Retry and resilience policies for Python programs that call functions through the iii engine."""

__version__ = "0.1.0"
