"""The caller's side: calls through `resilient(worker).trigger`, made safe to retry. Private."""
