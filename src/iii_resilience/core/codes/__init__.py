"""The facts about each error code: one table per system, one row per code."""
