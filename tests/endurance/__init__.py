"""Tools that run for minutes, each with a command of its own, and short forms of them that `make test` runs."""
