"""Stores of entries and values.

The modules:

    memory        in this process, bounded in bytes
    tiered        the hot tier in front of Redis
    write_buffer  entries that wait a moment to be written together
    codecs        how entries become bytes in Redis
    entry_codec   entries in the clear
    sealed_codec  entries sealed with a key that is not in the store
    redis/        Redis or Valkey, and a private server of it
"""
