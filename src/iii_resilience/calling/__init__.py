"""The caller's door: real engine calls, made safe to retry."""
