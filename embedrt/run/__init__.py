"""Items to arrays: planning, batching, threads and processes. Knows no task."""
