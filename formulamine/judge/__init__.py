"""Say which candidates are performance work."""
