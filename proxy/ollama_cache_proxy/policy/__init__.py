"""Decisions about requests and responses: pure functions over values.

Nothing in here waits, reads a clock, draws a random number, logs or opens anything. Imports stay within the standard
library, orjson and this package, so every rule can be tested with a table.
"""
