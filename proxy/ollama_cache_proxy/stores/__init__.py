"""Stores of entries and values.

The modules:

    memory        in this process, bounded in bytes
    tiered        the hot tier in front of Redis
    write_buffer  entries that wait a moment to be written together
    entry_codec   entries as bytes
    redis/        Redis or Valkey, and a private server of it
"""
