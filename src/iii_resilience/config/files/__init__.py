"""Policy files: finding, reading, merging, validating and writing them. Private."""
