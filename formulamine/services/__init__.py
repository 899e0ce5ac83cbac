"""The outside world: store, ledger, git, sandbox, resolver. No service knows a phase."""
