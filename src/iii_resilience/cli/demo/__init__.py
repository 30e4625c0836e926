"""The demo: real workers and real faults, called with the library and without it."""
