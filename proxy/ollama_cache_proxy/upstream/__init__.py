"""Ollama: HTTP/1.1 towards it, and what it says of its models."""
