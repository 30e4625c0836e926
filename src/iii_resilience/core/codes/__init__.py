"""Everything known about each error code: one table per system, one row per code."""
