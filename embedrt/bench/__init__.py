"""Comparison with other embedding libraries on the user's machine, model and texts; nothing here is imported to encode.

Each engine has a process of its own: `worker` loads it through `peers`, and neither of the two imports embedrt, so that
start and memory are the engine's alone.
"""
