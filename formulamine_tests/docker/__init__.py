"""Tests of the docker backend, on a real engine and a real registry."""
