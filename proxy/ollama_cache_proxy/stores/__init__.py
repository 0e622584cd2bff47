"""Stores of entries: memory, Redis or Valkey (stores/redis/), and both together (tiered.py)."""
