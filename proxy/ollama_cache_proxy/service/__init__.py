"""The proxy as a running service, in one process or in several.

The modules:

    settings             every setting, and where it comes from; the shares of workers
    app                  the composition root: opens every part, and closes them in reverse order
    context              what all parts share: settings, address, clock, log, metrics, background tasks
    neighbours           opens what exchanges need: store, Ollama, digests of models, statistics
    store_choice         which store: a Redis by URL, a private server, or memory
    private_store        starts a private server, one that keeps its entries where that can be
    sealing              whether entries are sealed; seal_key_file: the key
    eviction_check       whether a named Redis evicts, where entries may live until then
    new_file             writes a file that must not be there yet
    recordings           opens the folder in which requests are recorded
    durations, tables    settings that are times; those of one model or category
    rules_from_settings  the rules of exchanges
    own_routes           the proxy's own routes, put together
    scrape               the metrics of this process, and of all workers
    sockets              the listening socket, and whether others can reach it; the limit on open files
    tls                  TLS contexts from PEM files
    log_setup            the log from the settings
    system_clock         the clock of the machine
    workers              the proxy as several processes
    supervisor           restarts workers, hands them connections, forwards their messages
    siblings             a worker's connection to its supervisor and the other workers
    sibling_topics       what a worker does with what they send
    channel              messages between two processes
"""
