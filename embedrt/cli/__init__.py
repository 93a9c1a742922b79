"""The command `embedrt`, one file per command."""
