"""What protects the other side from us: budgets, breakers and bulkheads. Injected clock, no I/O."""
