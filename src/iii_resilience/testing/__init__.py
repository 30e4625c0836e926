"""What a user's tests need: an engine for the real iii-sdk, without the engine."""
