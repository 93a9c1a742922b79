"""The dtypes float16 and bfloat16: graphs for CUDA, from drafts to proved variants."""
