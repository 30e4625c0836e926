"""What a hardened handler adds: deadlines, encoded errors, checked results. Private."""
