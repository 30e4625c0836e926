"""The only package that touches an SDK client: connection, sending, shutdown, versions. Private."""
