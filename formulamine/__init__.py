"""formulamine: public Python repositories in, a benchmark of verified performance work out, one month at a time."""
