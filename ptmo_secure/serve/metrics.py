"""Figures for Prometheus: counts, sizes and times; labels are words of ours, never a client's."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ptmo_secure.serve.routing import Outcome, Router, Routing, happened

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """The figures of one server, in a registry of its own.

    Args:
        router: asked for its gauges whenever the figures are read.
    """

    def __init__(self, router: Router) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ptmo_requests", "Responses", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "ptmo_request_seconds",
            "From a request's first byte to the last of its response",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token_seconds = Histogram(
            "ptmo_first_token_seconds",
            "From a request to the first token of its answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "ptmo_requests_in_flight", "Requests being answered", registry=self.registry
        )
        self.disconnects = Counter(
            "ptmo_disconnects", "Clients that left before the end", registry=self.registry
        )
        self._tokens = Counter("ptmo_tokens", "Tokens", ["kind"], registry=self.registry)
        self._routes = Counter(
            "ptmo_routes", "Answers by where and why", ["route", "level"], registry=self.registry
        )
        self._crossings = Counter("ptmo_tee_crossings", "Calls into TEEs", registry=self.registry)
        self._usd = Counter("ptmo_cost_usd", "Dollars spent on clouds", registry=self.registry)
        self.registry.register(_RouterGauges(router))

    def count(self, routing: Routing, outcome: Outcome) -> None:
        """Count an answer that ended, where it was made."""
        routing = happened(routing, [outcome])
        self._routes.labels(routing.route.value, routing.level.value).inc()
        self._tokens.labels("prompt").inc(outcome.prompt_tokens)
        self._tokens.labels("cached").inc(outcome.cached_tokens)
        self._tokens.labels("completion").inc(outcome.completion_tokens)
        self._crossings.inc(outcome.crossings)
        self._usd.inc(outcome.usd)

    def count_embedded(self, tokens: int) -> None:
        """Count the tokens of texts that were made into vectors."""
        self._tokens.labels("embedded").inc(tokens)

    def text(self) -> bytes:
        """Return the figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _RouterGauges(Collector):
    def __init__(self, router: Router) -> None:
        self._router = router

    def describe(self) -> list[GaugeMetricFamily]:
        """Return nothing: registering must not ask the router yet."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the router's figures of the moment."""
        figures: Mapping[str, float] = self._router.gauges()
        for name, value in figures.items():
            yield GaugeMetricFamily(f"ptmo_{name}", name.replace("_", " "), value=value)
