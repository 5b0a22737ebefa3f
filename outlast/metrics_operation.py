"""The operation /metrics: for operators, in the text format of Prometheus.

A registry of our own: an application that embeds the gateway has metrics, too, and the library's global registry would
mix them. The library's collector of process figures (memory, processor time, descriptors) comes along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from outlast.health_facts import HealthFacts
from outlast.metrics import Counts, metrics_of
from outlast.vitals import Vitals
from transport.exchange import Exchange, Headers
from transport.handler import JSON_HEADERS, error_body
from transport.operation import Operation

METRICS_PATH = "/metrics"


class _Once(Collector):
    """Gives the library what was read off for one answer."""

    def __init__(self, facts: HealthFacts, counts: Counts) -> None:
        self._facts = facts
        self._counts = counts

    def describe(self) -> Iterator[Metric]:
        """Give nothing: each answer has a registry of its own, so no names can collide over time."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        return metrics_of(self._facts, self._counts)


def exposition(facts: HealthFacts, counts: Counts) -> bytes:
    """Write all metrics as text."""
    registry = CollectorRegistry()
    registry.register(_Once(facts, counts))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


def metrics_operation(vitals: Vitals, counts: Callable[[], Counts]) -> Operation:
    """Make the operation that gives the metrics of this gateway."""

    async def operate(exchange: Exchange, is_operator: bool, extra: Headers) -> None:
        if exchange.head.method not in ("GET", "HEAD"):
            await exchange.respond(405, (*JSON_HEADERS, (b"allow", b"GET, HEAD"), *extra), error_body("use GET"))
            return
        text = exposition(await vitals.probed(), counts())
        await exchange.respond(200, ((b"content-type", CONTENT_TYPE_LATEST.encode()), *extra), text)

    return Operation(METRICS_PATH, operate)
