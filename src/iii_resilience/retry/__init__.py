"""Retries around a callable: the decorator, the loop, and the run of a call. Private."""
