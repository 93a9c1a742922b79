"""The HTTP server: one process that speaks the APIs of OpenAI, TEI, Cohere, Jina, Ollama and Weaviate."""
