"""The proxy's own routes.

The modules:

    router        which request is for them, who may change or list what; health and metrics
    entry_routes  statistics, entries, purges, explanations
    pack_routes   packs: entries for other proxies, and from them
    live_page     the files of the live page
    live_figures  its figures
    live_events   the same as server-sent events
    gpu_cards     graphics cards, while somebody looks
    own_route     the types of a route
"""
