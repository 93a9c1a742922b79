"""Encode a document that is longer than the model reads: windows, and passages by late chunking.

python examples/long_document.py
"""

from pydoc_data.topics import topics

import embedrt

QUERY = "How does Python find a module on disk?"
CITY = "Berlin is the capital of Germany. It has 3.8 million inhabitants. The Spree flows through it."


def show_windows(model: embedrt.Embedder) -> None:
    """The window of a long document that fits a query best."""
    document = topics["import"]
    vectors = model.encode_long(document, overlap=32, combine="none")
    spans = model.windows(document, overlap=32)
    scores = embedrt.cos_sim(model.encode_query(QUERY), vectors)[0]
    start, end = spans[scores.argmax()]
    print(f"{len(document.split())} words, {model.max_seq_length} tokens at a time: {len(spans)} windows")
    print(f"{scores.max():.2f} (lowest {scores.min():.2f})  {' '.join(document[start:end].split())[:150]} ...\n")


def show_late_chunking(model: embedrt.Embedder) -> None:
    """Similarity of each sentence to "Berlin": encoded alone, and with the rest of the text as its context."""
    ends = [index + 1 for index, letter in enumerate(CITY) if letter == "." and CITY[index : index + 2] != ".8"]
    spans = list(zip([0, *(end + 1 for end in ends)], ends, strict=False))
    sentences = [CITY[start:end] for start, end in spans]
    berlin = model.encode("Berlin")
    alone = embedrt.cos_sim(berlin, model.encode(sentences))[0]
    in_context = embedrt.cos_sim(berlin, model.encode_chunks(CITY, spans))[0]
    print("alone  in context")
    for sentence, *scores in zip(sentences, alone, in_context, strict=True):
        print(f"{scores[0]:5.2f}  {scores[1]:10.2f}  {sentence}")


if __name__ == "__main__":
    embedder = embedrt.Embedder(embedrt.default_model())
    show_windows(embedder)
    show_late_chunking(embedder)
