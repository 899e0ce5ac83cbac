"""Find repositories, collect their merged pull requests, keep the candidates."""
