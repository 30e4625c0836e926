"""Guards limit calls: budgets, circuit breakers and bulkheads; the time is an argument."""
