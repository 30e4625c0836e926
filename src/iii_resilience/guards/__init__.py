"""What protects the other side from us: budgets. I/O-free, with an injected clock."""
