"""The demo: real workers, real faults, and what callers are told, with the library and without."""
