"""One exchange from top to bottom, and what it takes.

The modules, in the order in which a request meets them:

    exchange.py         the order of things; start reading here
    fast_path.py        hits that are known by what of their requests is read, before anything is parsed
    fast_notes.py       what is noted of each
    known_questions.py  hits of the same question, asked in other bytes
    lookup_batches.py   lookups that begin together, as one
    intake.py           from a request to a decision: bypass it, or what the store has of it
    lookup.py           from a candidate to a question, from a question to its entry or its items
    collapsing.py       joins the request that is in flight for the same key, or starts one
    flights.py          one request to Ollama, and all who wait for it
    fetch.py            what a flight does: ask, hand out, store; for lists and streams lists.py and streams.py
    relay.py            requests that bypass the cache
    delivery.py         all that is written to a client
    outcome.py          how it went, and the one fact that it ends in
    packing.py          entries for packs, and from them
    explanation.py      the same steps without asking Ollama, and the nearest entry

    questions.py        what is asked, and the neighbours that everything here is made of
    ports.py            what is needed of the world, as Protocols; store_ports.py: of the store
    facts.py            what observers are told
    tasks.py            work that outlives the request that began it
    errors.py           what can go wrong, and by whose fault
    fingerprint_key.py  the key of the fingerprints that explanations compare
"""
