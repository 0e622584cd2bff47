"""A transparent caching reverse proxy in front of Ollama. This is the map of the house.

    settings.py    one typed model of all settings
    app.py         composition root: opens, joins and closes everything
    opening.py     what the settings name, opened: socket, certificates, log, store
    workers.py     the same for several processes: their supervisor, and what each is beside a proxy
    exchange.py    one request from top to bottom: start reading here
    shortcuts.py   the short way for hits, known by the bytes of their requests
    finder.py      what the store knows of a request: identity, key, entry or items
    fetch.py       asking Ollama for an answer that others may wait for too, and keeping it
    lists.py       lists of texts, embedded item by item
    streams.py     streams, recorded while they pass
    explain.py     why a request is or is not answered from the cache
    marking.py     the key of the fingerprints that explanations compare
    flights.py     collapsed forwarding: one upstream request for N equal ones
    ports.py       what an exchange needs of the world, and the facts it gives back
    errors.py      what can go wrong on the way, and by whose fault
    tasks.py       work that outlives the request that began it
    policy/        decisions, pure: endpoints, classify, key, storing, reuse, fields, status, usage
    adapters/      I/O: listener, ollama, models, residents, stores, codec, metrics, log, statistics, admin, live page
    web/           the live page: HTML, CSS and JavaScript as they are served
    simulator/     an Ollama with the real wire form, for tests and demo
    gpu/           metrics of NVIDIA cards under the names of dcgm-exporter, a command of its own
    toolbox/       what bench, warm and quantize compute and decide, pure
    cli/           the command line, one module a command

Imports point one way: policy <- ports, errors <- exchange and its like; policy, ports <- adapters; app and workers
join them.
"""

__version__ = "0.1.0"
