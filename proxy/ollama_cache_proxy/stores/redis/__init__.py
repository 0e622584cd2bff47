"""The store in Redis or Valkey, through redis-py. When it fails, clients lose only the speed-up.

    redis_store.py     one server as a store, composed of the other modules
    redis_entries.py   store_ports.EntryStore: lookups, writes, deletions
    redis_values.py    store_ports.ValueStore
    redis_gauges.py    store_ports.StoreGauges
    generation.py      the generation of entries: lookups in it, and how a new one begins
    entry_writer.py    how entries are written, and how many at a time
    entry_count.py     how many entries there are
    scan.py            iterating over names: pages, purges, counts
    key_layout.py      the names in Redis
    guard.py           protects requests from a failing server: deadlines, breakers, health
    redis_client.py    the connections: redis-py's pool, and the lane for small commands (lane.py)
    redis_connections.py  redis-py's connections, made from an address (policy/redis_url.py)
    store_look.py      what is at the other end of a URL, when it is no Redis that can be used
    store_trouble.py   says so in the log, when the store is lost
    shared_flights.py  store_ports.SharedFlights: leases, and messages; flight_parts.py: streams in them
    company.py         whether other processes use the same store
    first_answers.py   the answers of several servers that are asked at once
    invalidation.py    messages of changes in Redis, for the hot tier
    private_server.py  a server of our own, which forgets its entries; server_process.py: as a process that ends with us
    kept_server.py     one that keeps them in a folder (kept_folder.py), and that proxies share (runtime_folder.py)
    deletions.py       how deletions in it survive whatever ends it
    scrubber.py        how what was deleted leaves its files
    renewals.py        how hits renew idle entries
    eviction.py        whether the server drops something when it is full

Only key_layout knows names, only redis_client opens connections for entries, and no failure passes the guard: a store
over several servers differs in these three, and in the commands with more than one key.
"""
