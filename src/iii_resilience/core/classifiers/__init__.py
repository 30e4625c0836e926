"""The parts of `classify`: exceptions, wire errors, messages, and what they prove.

Knows nothing of retries.
"""
