"""BERTopic and KeyBERT: the topics and keywords that sentence-transformers gives with the same texts and seeds."""
