"""State the problem and release what provably got faster."""
