"""What a scrape has."""

from prometheus_client.parser import text_string_to_metric_families

from dist_rec.serve.cache import TierCounts
from dist_rec.serve.server.metrics import Metrics


def values(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {f"{of.name}{sorted(of.labels.values())}": of.value for family in families for of in family.samples}


def test_counts_are_asked_for_when_they_are_read() -> None:
    counts = {"memory": TierCounts(1, 2, 3, 4, 5, 6), "store": TierCounts(7, entries=None, bytes=None)}
    version: list[str | None] = [None]
    metrics = Metrics(lambda: counts, lambda: 9, lambda: version[0])
    found = values(metrics)
    assert found["dist_rec_states_hits_total['memory']"] == 1 and found["dist_rec_states_bytes['memory']"] == 6
    assert found["dist_rec_states_hits_total['store']"] == 7 and "dist_rec_states_bytes['store']" not in found
    assert found["dist_rec_queue_requests[]"] == 9 and not any("model_info" in name for name in found)
    counts["memory"].evictions, version[0] = 33, "v7"
    found = values(metrics)
    assert found["dist_rec_states_evictions_total['memory']"] == 33 and found["dist_rec_model_info['v7']"] == 1


def test_each_has_a_registry_of_its_own() -> None:
    one, other = (Metrics(dict, lambda: 0, lambda: None) for _ in range(2))
    one.requests.labels("/x", "200").inc()
    one.batch_requests.observe(5)
    assert values(one)["dist_rec_http_requests_total['/x', '200']"] == 1
    assert "dist_rec_http_requests_total['/x', '200']" not in values(other)
