"""HTTP/1.1 towards Ollama, and what Ollama reports about its models.

The modules:

    ollama_server  requests to Ollama, and its responses while they arrive
    probes         what the proxy itself asks, with its credentials
    connections    the pool of connections
    digests        model names to digests, and when an entry is withdrawn
    loaded_models  which models are loaded
    loaded_contexts  with which context length, seen after responses
"""
