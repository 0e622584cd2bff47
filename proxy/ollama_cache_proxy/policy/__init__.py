"""Decisions about requests and responses: pure functions over values.

    endpoints     the table of Ollama's endpoints
    dialects/     the wire forms that they speak
    classify      whether a request may be served from the cache, or why not
    document      whether its JSON means the same to Ollama
    key           what is in a cache key
    scope_marks   what an entry tells of its key's scope
    context_lengths  when another context length of a model makes other keys
    embeddings    lists of texts, item by item
    callers       requests that a setting names
    reuse         request directives, and whether an entry may answer
    storing       whether a response may be stored
    lifetimes     how long an entry lives, and what a hit renews
    replay_pace   how a recorded stream is replayed
    host_names    Host names that a setting allows
    fields        which fields are forwarded and replayed; the Host rule
    selecting_fields  which lines of a head select a response, read without a parser
    status        Cache-Status, and the reason for everything
    rules         the settings that an exchange depends on
    messages      requests, heads, entries
    replies       responses of the proxy's own
    usage         what a response tells of Ollama's work
    purge         which entries a purge matches
    pack_admission  which entries of a pack may be stored; pack_records: how they are sent
    recordable    which requests may be recorded, and what of them
    fingerprints  fingerprints of a request
    forecast/     what other settings would have given
    mounts, server_versions, store_eviction: what a private or named server can be trusted with
    model_rows    what a list of models tells of each, where members may be missing
    breaker, buffers, chunked, labels, model_names, reason, record, sums, target, trace:
                  small things of one purpose each

Nothing in here waits, reads a clock, draws a random number, logs or opens anything. Imports stay within the standard
library, orjson and this package, so every rule can be tested with a table.
"""
