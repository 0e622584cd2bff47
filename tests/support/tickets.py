"""Tickets of requests, as tests of lanes want them."""

from __future__ import annotations

from ollama_cache_proxy.policy.tickets import Lane, Ticket


def chat(client: str = "person", *, size: int = 100) -> Ticket:
    """Give the ticket of a chat."""
    return ticket(Lane.INTERACTIVE, client, operation="chat", size=size)


def listed(client: str = "indexer", *, texts: int = 16, size: int = 100) -> Ticket:
    """Give the ticket of a list of texts."""
    return ticket(Lane.BATCH, client, operation="embed", texts=texts, size=size)


def ticket(lane: Lane, client: str, *, operation: str, texts: int = 1, size: int = 100) -> Ticket:
    """Give a ticket."""
    return Ticket(lane=lane, client=client.encode(), operation=operation, model="tiny", texts=texts, size=size)
