"""The store in Redis or Valkey, through redis-py. A fault of it costs a client nothing but the speed-up.

    redis_store.py     one server as a store, put together of what follows
    redis_entries.py   store_ports.EntryStore: lookups, writes, deletions
    redis_values.py    store_ports.ValueStore
    redis_gauges.py    store_ports.StoreGauges
    generation.py      the generation of entries: lookups under it, and how a new one begins
    entry_writer.py    how entries are written, and how many at a time
    entry_count.py     how many entries there are
    scan.py            going through names: pages, purges, counts
    key_layout.py      the names in Redis
    guard.py           what stands between a request and a server that fails: deadlines, breakers, health
    redis_client.py    the connections: redis-py's pool, and the lane for small commands (lane.py)
    invalidation.py    what changes in Redis, as the hot tier hears of it
    private_server.py  a server of our own

Names are key_layout's alone, connections redis_client's, and what fails ends at the guard: a store over several servers
differs in these three, and in the commands that name more than one key.
"""
