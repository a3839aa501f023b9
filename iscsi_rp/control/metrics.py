"""The daemons' figures for Prometheus. They come from the status: nothing is counted twice."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from iscsi_rp.control.appliance_models import ApplianceStatus, GroupStatus
from iscsi_rp.control.array_models import (
    ArrayStatus,
    RefusedLogins,
    SplitterMode,
    SplitterStatus,
    VolumeState,
)
from iscsi_rp.control.latency import Latencies, Latency

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
BUCKETS_AT: Final = range(4, 25)
"Powers of two of microseconds: from 16 µs to 17 s."


def array_metrics(status: ArrayStatus, latencies: Latencies) -> bytes:
    def families() -> Iterator[Metric]:
        yield _gauge("array_sessions", "Sessions of initiators", [], [((), len(status.sessions))])
        yield _refused(status.refused_logins)
        yield _gauge("array_alerts", "Alerts that are not over", [], [((), len(status.alerts))])
        yield _gauge(
            "volume_size_bytes",
            "Size of a volume",
            ["volume"],
            [((v.name,), v.size_bytes) for v in status.volumes],
        )
        yield _gauge(
            "volume_online",
            "1 while hosts are served",
            ["volume"],
            [((v.name,), float(v.state is VolumeState.ONLINE)) for v in status.volumes],
        )
        yield from _splitter(status.groups)
        yield from _commands(latencies)

    return _exposition(families())


def _refused(logins: RefusedLogins) -> CounterMetricFamily:
    text = "Logins that were refused since the array started"
    family = CounterMetricFamily("iscsi_rp_array_logins_refused", text, labels=["reason"])
    for reason, number in logins.by_reason.items():
        family.add_metric([reason], number)
    return family


def _splitter(groups: list[SplitterStatus]) -> Iterator[GaugeMetricFamily]:
    yield _gauge(
        "splitter_mode",
        "1 for the mode that the splitter is in",
        ["group", "mode"],
        [((g.group, mode.value), float(g.mode is mode)) for g in groups for mode in SplitterMode],
    )
    for name, text in (
        ("marked_bytes", "Regions in the dirty map"),
        ("to_sync_bytes", "What resynchronisation has still to compare or send"),
        ("inflight", "Writes sent and not yet received by the appliance"),
    ):
        yield _gauge(f"splitter_{name}", text, ["group"], [((g.group,), getattr(g, name)) for g in groups])


def _commands(latencies: Latencies) -> Iterator[Metric]:
    volumes = _histogram("volume", "a volume")
    for volume in latencies.volumes:
        _add_latency(volumes, volume.volume, volume)
    yield volumes
    initiators = _histogram("initiator", "an initiator")
    for initiator in latencies.initiators:
        _add_latency(initiators, initiator.initiator, initiator)
    yield initiators


def _histogram(of: str, text: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        f"iscsi_rp_{of}_command_seconds",
        f"How long commands of {text} took, from their arrival to their answer",
        labels=[of, "kind"],
    )


def _add_latency(family: HistogramMetricFamily, label: str, latency: Latency) -> None:
    for kind, counts in (("read", latency.reads), ("write", latency.writes)):
        buckets = [(repr((1 << n) / 1e6), float(sum(counts[: n + 1]))) for n in BUCKETS_AT]
        # There is no sum: commands are only counted.
        family.add_metric([label, kind], [*buckets, ("+Inf", float(sum(counts)))], None)


def appliance_metrics(status: ApplianceStatus) -> bytes:
    def families() -> Iterator[GaugeMetricFamily]:
        yield _gauge("appliance_arrays", "Arrays that are connected", [], [((), len(status.arrays))])
        yield _gauge("appliance_alerts", "Alerts that are not over", [], [((), len(status.alerts))])
        for name, text in (
            ("end", "Position of the newest record"),
            ("durable", "Position up to which records are durable"),
            ("sealed", "Position up to which images are sealed"),
            ("distributed", "Position up to which records are in the copy"),
            ("window_s", "Protection window in seconds"),
            ("journal_bytes_used", "Bytes of the journal in use"),
            ("journal_bytes_capacity", "Bytes the journal may use"),
            ("lag_bytes", "Bytes in the journal and not yet in the copy"),
            ("lag_writes", "Writes in the journal and not yet in the copy"),
        ):
            yield _gauge(
                f"group_{name}", text, ["group"], [((g.name,), getattr(g, name)) for g in status.groups]
            )
        yield _gauge(
            "group_image_accessed",
            "1 while an image is served",
            ["group"],
            [_accessed(g) for g in status.groups],
        )

    return _exposition(families())


def _accessed(group: GroupStatus) -> tuple[tuple[str, ...], float]:
    return (group.name,), float(group.access is not None)


def _gauge(
    name: str, text: str, labels: list[str], samples: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(f"iscsi_rp_{name}", text, labels=labels)
    for values, value in samples:
        gauge.add_metric(list(values), value)
    return gauge


class _Status(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> list[Metric]:
        return self._families


def _exposition(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Status(families))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
