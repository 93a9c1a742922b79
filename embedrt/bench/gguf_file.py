"""A BERT with mean pooling as a GGUF file, which is what llama.cpp reads. `worker` loads this file by its path.

The names of tensors and settings are those of GGUF's architecture "bert". The vocabulary is written the way llama.cpp
reads a WordPiece vocabulary: "▁" before what begins a word, and no "##" before what continues one.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from embedrt.bench.peers import Files

# Matrices that are multiplied; everything else stays float32 in a quantized file, as in llama.cpp's own converter.
_QUANTIZED = ("attn_q", "attn_k", "attn_v", "attn_output.", "ffn_up", "ffn_down", "token_embd.")
_SPECIAL = {"[PAD]": "pad", "[UNK]": "unk", "[CLS]": "bos", "[SEP]": "sep", "[MASK]": "mask"}


def write_gguf(files: "Files", path: Path, kind: str) -> None:
    """Write a model folder as one file.

    Args:
        files: The model folder has config.json, model.safetensors and vocab.txt.
        path: The file to write.
        kind: "F32", or "Q8_0": 8 bits and a scale for every 32 weights.
    """
    import gguf
    from safetensors.numpy import load_file

    model = files.source
    config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    words = (model / "vocab.txt").read_text(encoding="utf-8").split("\n")[: config["vocab_size"]]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(model.name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")  # what the converter writes for a lowercasing BERT tokenizer
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([_spelled(word) for word in words])
    control = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control[word not in _SPECIAL] for word in words])
    for word, role in _SPECIAL.items():
        getattr(writer, f"add_{role}_token_id")(words.index(word))

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, config["num_hidden_layers"])
    for name, tensor in load_file(model / "model.safetensors").items():
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None or name.startswith("pooler."):  # `position_ids`, and a layer that no embedding needs
            continue
        values = tensor.astype(np.float32)
        if kind != "F32" and values.ndim == 2 and any(part in target for part in _QUANTIZED):
            quantization = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(target, gguf.quants.quantize(values, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(target, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _spelled(word: str) -> str:
    if word in _SPECIAL or word.startswith("[unused"):
        return word
    return word.removeprefix("##") if word.startswith("##") else "\u2581" + word
