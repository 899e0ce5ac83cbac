"""`python -m formulamine`: the command line."""

from formulamine.cli import main

main()
