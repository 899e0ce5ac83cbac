"""Resolve the dependencies of the day and build both sides."""
