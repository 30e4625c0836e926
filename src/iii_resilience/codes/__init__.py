"""What is known of every error code: one table a system, one row a code."""
