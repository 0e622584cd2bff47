"""HTTP/1.1 towards Ollama, and what Ollama reports about its models.

The modules:

    ollama_server    requests to Ollama, and its responses while they arrive
    probes           what the proxy itself asks, with its credentials
    connections      the pool of connections
    digests          model names to digests, and when an entry is withdrawn
    loaded_models    which models are loaded
    loaded_contexts  with which context length, seen after responses
    runners          how they are loaded, and what their prompts are made with
    model_templates  which models' templates write the date

Several Ollamas:

    fleet            as one upstream: where a request goes
    fleet_host       one of them
    fleet_looks      looks at them in the background
    fleet_models     what a model's name stands for
    fleet_probes     what the proxy itself asks
    fleet_responses  what several respond, as one response
    fleet_uploads    an upload for several of them
"""
