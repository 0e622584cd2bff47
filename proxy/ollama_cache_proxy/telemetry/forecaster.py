"""Samples what is asked for, and says what other settings would have given. See policy/forecast."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from ollama_cache_proxy.core.facts import Exchange
from ollama_cache_proxy.core.ports import Clock
from ollama_cache_proxy.core.questions import Bypassed, Listing, Question
from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.core.turns import Turns
from ollama_cache_proxy.policy.classify import is_embedding
from ollama_cache_proxy.policy.endpoints import Kind
from ollama_cache_proxy.policy.forecast import alternatives
from ollama_cache_proxy.policy.forecast.ghosts import BYPASSED
from ollama_cache_proxy.policy.forecast.outlook import InForce, forecast
from ollama_cache_proxy.policy.forecast.traffic_sample import AT_ONCE, Asked, TrafficSample
from ollama_cache_proxy.policy.rules import Rules
from ollama_cache_proxy.policy.status import Detail, FwdReason, Result

_OK: Final = 200


class TrafficForecaster:
    """See core/questions.py. One instance a process; it outlives a reload."""

    def __init__(self, *, clock: Clock, tasks: Tasks, turns: Turns) -> None:
        self._clock = clock
        self._tasks = tasks
        self._turns = turns
        self._sample = TrafficSample(clock.now())
        self._generation: str | None = None

    def outlook(self, force: InForce) -> dict[str, Any]:
        """Return the forecast, as values for JSON."""
        return forecast(self._sample, force, self._clock.now())

    def asked(self, question: Question, rules: Rules, exchange: Exchange) -> None:
        """See core/questions.py."""
        cache, listing = exchange.cache, question.listing
        if cache.detail is Detail.CLIENT_LEFT:
            return
        now, others = int(self._clock.now()), None
        if question.generation is not self._generation:
            self._generation = question.generation
            self._sample.note_generation(question.generation)
        if cache.result is Result.HIT:
            if listing is None:
                keys, embedding = [hash(question.key)], question.candidate.endpoint.kind is Kind.EMBEDDING
            else:
                keys, embedding = [*map(hash, listing.keys.values())], True
            if keys and (listing is None or len(keys) == question.texts):
                others = self._sample.again(keys, now, exchange.saved.seconds / len(keys), embedding=embedding)
                if not others:
                    return
        if listing is None and not self._is_sampled(question, exchange, now):
            return
        self._add(_asked(question, rules, exchange, now), others)

    def _is_sampled(self, question: Question, exchange: Exchange, now: int) -> bool:
        """Return whether a request that is no list may be in the sample. If not, it is counted here, unless it was."""
        embedding = question.candidate.endpoint.kind is Kind.EMBEDDING
        if self._sample.admits(
            alternatives.number(question.key), alternatives.hashed(question.body), now, embedding=embedding
        ):
            return True
        if exchange.cache.result is not Result.HIT:
            self._sample.missed(exchange.upstream_seconds or 0.0, stored=_is_stored(exchange), embedding=embedding)
        return False

    def _add(self, asked: Asked, others: list[int] | None) -> None:
        if len(asked.keys) > AT_ONCE:
            steps = self._turns.run(self._sample.add_in_steps(asked, others))
            self._tasks.spawn(steps, "sample a list", endless=True)
        elif asked.keys:
            self._sample.add(asked, others)

    def again(self, exchange: Exchange, hits: int) -> None:
        """See core/questions.py. No texts of lists come by the fast path."""
        keys, now = [alternatives.number(exchange.key)], int(self._clock.now())
        self._sample.again(keys, now, exchange.saved.seconds, hits, embedding=exchange.operation == "embeddings")

    def passed(self, bypassed: Bypassed, exchange: Exchange) -> None:
        """See core/questions.py."""
        if exchange.status != _OK or exchange.error is not None:
            return
        endpoint, rules, fields = bypassed.endpoint, bypassed.rules, bypassed.request.fields
        hashed, now = alternatives.hashed(bypassed.body), int(self._clock.now())
        if not self._sample.ghosts.admits(BYPASSED, hashed, now) or len(bypassed.body) > alternatives.MOST:
            return  # before anything is read
        candidate = alternatives.let_in(endpoint, bypassed.body, fields)
        if candidate is None:
            return
        self._sample.passed(
            alternatives.needed(endpoint, bypassed.policy, candidate, streams=rules.streams),
            alternatives.key_of(candidate, rules.credentials, fields, bypassed.namespace),
            hashed,
            now,
            seconds=exchange.seconds,
            ttl=rules.ttl_embedding if is_embedding(endpoint) else rules.ttl_completion,
        )


def _asked(question: Question, rules: Rules, exchange: Exchange, now: int) -> Asked:
    """Return what the sample is told of an exchange."""
    cache, listing = exchange.cache, question.listing
    asked = _of_one(question, exchange, now) if listing is None else _of_list(question, listing, exchange, now)
    asked.exact = listing is not None and not rules.estimated_counts
    ttl, told = question.lifetime.idle or question.lifetime.seconds, cache.ttl
    asked.renewed = question.lifetime.idle is not None
    asked.until = now + (ttl if told is None or asked.renewed else told)
    asked.ends = asked.until if told is not None and cache.result is Result.HIT else now + ttl - asked.age
    return asked


def _of_one(question: Question, exchange: Exchange, now: int) -> Asked:
    """Return what the sample is told of a request that is stored as a whole."""
    candidate, hit = question.candidate, exchange.cache.result is Result.HIT
    return Asked(
        embedding=candidate.endpoint.kind is Kind.EMBEDDING,
        keys=(alternatives.number(question.key),),
        known=(hit,),
        hashed=lambda _: alternatives.hashed(question.body),
        alike=alternatives.of_request(candidate, question.scope, question.request.fields, question.body),
        now=now,
        forced=_is_forced(exchange),
        stored=_is_stored(exchange),
        saved=exchange.saved.seconds,
        spent=exchange.upstream_seconds or 0.0,
        size=exchange.bytes_sent,
    )


def _of_list(question: Question, listing: Listing, exchange: Exchange, now: int) -> Asked:
    """Return what the sample is told of a list; its odd texts, which are never stored, are left out."""
    texts, hit = listing.text_list.texts, exchange.cache.result is Result.HIT
    weights = None
    if len(listing.keys) != len(texts):
        counts = Counter(texts)
        weights = [counts[text] for text in listing.keys]
    known, unique = exchange.items_known, listing.text_list.ordinary
    return Asked(
        embedding=True,
        keys=[alternatives.number(key) for key in listing.keys.values()],
        known=[hit] * len(listing.keys) if hit or not known else [text in listing.known for text in listing.keys],
        weights=weights,
        hashed=lambda place: alternatives.hashed(unique[place][: alternatives.MOST].encode()),
        alike=alternatives.of_texts(listing.text_list, question.scope, question.request.fields),
        now=now,
        age=listing.age or 0,
        forced=_is_forced(exchange),
        stored=_is_stored(exchange),
        alone=len(texts) == 1,
        saved=exchange.saved.seconds / known if known else 0.0,
        spent=(exchange.upstream_seconds or 0.0) / max(1, len(texts) - known),
        size=exchange.bytes_sent // len(texts),
    )


def _is_forced(exchange: Exchange) -> bool:
    """Return whether the request, or a setting, said not to use what is stored."""
    return exchange.cache.fwd is FwdReason.REQUEST or exchange.cache.detail is Detail.WRITE_ONLY


def _is_stored(exchange: Exchange) -> bool:
    """Return whether what was not known is stored, or will be when a stream has ended well."""
    cache = exchange.cache
    return exchange.error is None and (cache.stored or cache.detail is Detail.RECORDING)
