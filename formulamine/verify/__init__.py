"""The measured speedup: the one arbiter of what gets released."""
