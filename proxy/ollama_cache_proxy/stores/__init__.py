"""Where entries are kept: in memory, in Redis or Valkey (stores/redis/), in both (tiered.py)."""
