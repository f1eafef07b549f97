"""A Guard's counters for Prometheus.

Needs ``prometheus_client`` (``pip install 'stillalive[prometheus]'``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["GuardCollector"]

_GAUGES = {
    "tracked": "Connections that are guarded now",
    "watched": "Watches that are going on",
    "held": "Connections that are held now",
}
_COUNTERS = {
    "looks": ("looks", "Questions to the kernel about one connection"),
    "passes": ("discovery_passes", "Passes over the descriptors of this process"),
    "stalls": ("stalls", "Times that the process was stopped, after which all clocks begin anew"),
    "dropped": ("events_dropped", "Events that were not told, the queue being full"),
    "callback_errors": ("callback_errors", "Callbacks that raised"),
}
_CPU = {"cpu_us": ("cpu_seconds", "all"), "pass_cpu_us": ("discovery_cpu_seconds", "discovery")}


class HasStats(Protocol):
    """A Guard, or what counts as one."""

    def stats(self) -> Mapping[str, int]: ...


class GuardCollector(Collector):
    """Collect the counters of one :class:`~stillalive.Guard`.

    :param guard: the Guard; it need not run.
    :param labels: constant labels, such as ``{"server": "api"}``.

    One for each registry, which takes a metric's name once. Each scrape reads
    ``guard.stats()`` once. Threads: any. Each process has its own counters:
    with pre-forked workers each worker must be scraped, or use the
    multi-process mode with counters of your own in ``on_event``. Errors:
    TypeError for what is no Guard, or labels that are no strings.

    >>> from prometheus_client import CollectorRegistry, generate_latest
    >>> from stillalive.integrations.prometheus import GuardCollector
    >>> registry = CollectorRegistry()
    >>> guard = Guard(never_spoke=60)
    >>> registry.register(GuardCollector(guard))
    >>> b"stillalive_guard_tracked 0.0" in generate_latest(registry)
    True
    """

    def __init__(self, guard: HasStats, labels: Mapping[str, str] | None = None) -> None:
        if isinstance(guard, type) or not callable(getattr(guard, "stats", None)):
            raise TypeError(f"guard={guard!r}: must be a Guard")
        if labels is not None and not (
            isinstance(labels, Mapping)
            and all(isinstance(text, str) for pair in labels.items() for text in pair)
        ):
            raise TypeError(f"labels={labels!r}: must be a mapping of str to str")
        self._guard = guard
        self._names = list(labels or {})
        self._values = list((labels or {}).values())

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, each read at the same moment."""
        found = self._guard.stats()
        for key, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"stillalive_guard_{key}", text, labels=self._names)
            gauge.add_metric(self._values, found.get(key, 0))
            yield gauge
        for key, (name, text) in _COUNTERS.items():
            yield self._counter(name, text, found.get(key, 0))
        for key, (name, text) in _CPU.items():
            yield self._counter(name, f"CPU time of the thread, {text}", found[key] / 1e6)
        yield self._by("connections_told", "Connections told, by cause", "cause", "told_", found)
        yield self._by("spared", "Acts that were put off, by reason", "reason", "spared_", found)

    def _counter(self, name: str, text: str, value: float) -> Metric:
        counter = CounterMetricFamily(f"stillalive_guard_{name}", text, labels=self._names)
        counter.add_metric(self._values, value)
        return counter

    def _by(
        self, name: str, text: str, label: str, prefix: str, found: Mapping[str, int]
    ) -> Metric:
        metric = CounterMetricFamily(f"stillalive_guard_{name}", text, labels=[*self._names, label])
        for key, value in found.items():
            if key.startswith(prefix):
                metric.add_metric([*self._values, key.removeprefix(prefix)], value)
        return metric
