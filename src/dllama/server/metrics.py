"""GET /metrics: what the engine counts, what the HTTP server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dllama.engine import EngineStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

_GAUGES = {
    "n_running": ("dllama_requests_running", "texts that share the next step"),
    "n_queued": ("dllama_requests_queued", "texts that wait for their turn"),
    "n_pages_used": ("dllama_kv_pages_used", "pages of the KV cache that texts are using"),
    "n_pages_cached": ("dllama_kv_pages_cached", "pages kept for texts that begin alike"),
    "n_pages_free": ("dllama_kv_pages_free", "pages that hold nothing"),
}
_COUNTERS = {
    "n_prompt_tokens": ("dllama_prompt_tokens", "tokens of prompts"),
    "n_cached_tokens": ("dllama_cached_prompt_tokens", "tokens of prompts that were not computed again"),
    "n_completion_tokens": ("dllama_completion_tokens", "tokens drawn"),
    "n_steps": ("dllama_steps", "forward passes"),
    "n_preemptions": ("dllama_preemptions", "texts that made room for others, to go on later"),
    "n_drafted": ("dllama_guessed_tokens", "draft tokens that were verified"),
    "n_drafted_right": ("dllama_guessed_tokens_right", "draft tokens that came true"),
}


class Metrics:
    """`stats` returns None while there is no model."""

    def __init__(self, stats: Callable[[], EngineStats | None]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(stats))
        self._requests = Counter(
            "dllama_http_requests", "answers of the HTTP server", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "dllama_http_request_seconds",
            "time to the end of the answer",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "dllama_first_token_seconds", "time to the first text", buckets=_SECONDS, registry=self._registry
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    def __init__(self, stats: Callable[[], EngineStats | None]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield GaugeMetricFamily(
            "dllama_up", "1 while requests can be answered", value=float(stats is not None)
        )
        if stats is None:
            return
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, value=getattr(stats, field))
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(stats, field))
