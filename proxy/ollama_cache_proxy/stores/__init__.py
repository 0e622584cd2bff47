"""Where entries are kept: in memory, in Redis or Valkey, in both."""
