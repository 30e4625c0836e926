"""Classification and decisions, without an SDK, files, or threads of its own."""
