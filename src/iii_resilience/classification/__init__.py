"""The rooms behind `classify`: exceptions, messages, and what they prove.

Knows nothing of retrying; `iii_resilience.classify` is the door.
"""
