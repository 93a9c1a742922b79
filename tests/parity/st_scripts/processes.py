"""Encode with several processes: a list of devices, a pool, and the method of earlier versions."""

import json
import logging
import warnings

from sentence_transformers import SentenceTransformer

logging.basicConfig(format="%(asctime)s - %(message)s", level=logging.INFO)

if __name__ == "__main__":
    sentences = [f"This is sentence {i}" for i in range(40)]
    model = SentenceTransformer("all-MiniLM-L6-v2")
    alone = model.encode(sentences)

    by_devices = model.encode(sentences, device=["cpu", "cpu"])

    pool = model.start_multi_process_pool(target_devices=["cpu", "cpu"])
    by_pool = model.encode(sentences, pool=pool)
    again = model.encode(sentences, batch_size=8, pool=pool, chunk_size=16, normalize_embeddings=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = model.encode_multi_process(sentences, pool)
    streamed = []
    for start in range(0, len(sentences), 16):
        batch = sentences[start : start + 16]
        streamed.extend(model.encode(batch, batch_size=8, pool=pool, chunk_size=4).tolist())
    model.stop_multi_process_pool(pool)

    found = {"by_devices": by_devices, "by_pool": by_pool, "again": again, "old": old}
    largest = {name: float(abs(vectors - alone).max()) for name, vectors in found.items()}
    largest["streamed"] = float(abs(alone - streamed).max())
    print(json.dumps({"shape": list(by_pool.shape), "largest": largest}))
