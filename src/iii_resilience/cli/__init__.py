"""The operator's side: the command ``iii-resilience``. Private."""
