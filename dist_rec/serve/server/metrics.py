"""What a server counts, for Prometheus, in a registry of its own."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dist_rec.serve.cache import TierCounts

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = tuple(float(2**n) for n in range(15))


class Metrics:
    """`counts` of the tiers, requests that are `waiting`, and the `version` that is served are asked for when the
    metrics are read."""

    def __init__(
        self,
        counts: Callable[[], dict[str, TierCounts]],
        waiting: Callable[[], int],
        version: Callable[[], str | None],
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Asked(counts, waiting, version))
        more = {"registry": self.registry, "namespace": "dist_rec"}
        self.requests = Counter("http_requests", "Answers by route and status.", ["route", "code"], **more)
        self.seconds = Histogram("http_request_seconds", "From head to answer.", ["route"], buckets=SECONDS, **more)
        self.queue_seconds = Histogram("queue_seconds", "From the queue to a batch.", buckets=SECONDS, **more)
        self.batch_seconds = Histogram("batch_seconds", "Of a batch in the model.", buckets=SECONDS, **more)
        self.batch_requests = Histogram("batch_requests", "Requests of a batch.", buckets=SIZES, **more)
        self.batch_candidates = Histogram("batch_candidates", "Candidates of a batch.", buckets=SIZES, **more)
        self.scored = Counter("scored_requests", "By what was kept of the user.", ["state"], **more)
        self.candidates = Counter("scored_candidates", "Candidates that were scored.", **more)
        self.reloads = Counter("reloads", "Attempts to take another export.", ["outcome"], **more)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Asked(Collector):
    def __init__(
        self,
        counts: Callable[[], dict[str, TierCounts]],
        waiting: Callable[[], int],
        version: Callable[[], str | None],
    ) -> None:
        self._counts, self._waiting, self._version = counts, waiting, version

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily("dist_rec_queue_requests", "Requests that wait.", value=self._waiting())
        model = GaugeMetricFamily("dist_rec_model_info", "1 for the model that is served.", labels=["version"])
        if (version := self._version()) is not None:
            model.add_metric([version], 1)
        yield model
        tiers = self._counts()
        for name, text in (
            ("hits", "Users whose state was there."),
            ("misses", "Users whose state was not there."),
            ("evictions", "States that were dropped to make room."),
            ("errors", "Failures, and states that were damaged."),
        ):
            counter = CounterMetricFamily(f"dist_rec_states_{name}", text, labels=["tier"])
            for tier, of in tiers.items():
                counter.add_metric([tier], getattr(of, name))
            yield counter
        for name, text in (("entries", "States that are kept."), ("bytes", "Bytes of states that are kept.")):
            gauge = GaugeMetricFamily(f"dist_rec_states_{name}", text, labels=["tier"])
            for tier, of in tiers.items():
                if (value := getattr(of, name)) is not None:
                    gauge.add_metric([tier], value)
            yield gauge
