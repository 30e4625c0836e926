"""What limits calls: budgets, circuit breakers and bulkheads, each with the time as an argument."""
