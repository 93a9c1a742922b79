"""The contract on disk, shared by export and runtime."""
