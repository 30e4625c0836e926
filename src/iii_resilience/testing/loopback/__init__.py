"""The loopback engine's parts. Private: `iii_resilience.testing` exports what tests need."""
