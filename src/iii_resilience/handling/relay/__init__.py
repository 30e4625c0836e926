"""The relay: hands committed messages, and retries that are due, to their queues."""
