"""HTTP/1.1 towards Ollama, and what Ollama reports about its models."""
