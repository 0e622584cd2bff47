"""The store in Redis or Valkey, and a private server of it."""
