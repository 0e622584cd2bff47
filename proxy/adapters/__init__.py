"""The edge: everything that waits for a socket, a store, a clock or a terminal.

No adapter imports another one (redis_store.py's use of codec.py aside) nor exchange.py; app.py joins them.
"""
