"""Which worker owns a function: keeping it registered, hot standby, failover, drain. Private."""
