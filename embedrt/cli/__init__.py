"""The command `embedrt`: one file a command."""
