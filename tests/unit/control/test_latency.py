"""What histograms say: quantiles, and labels of metrics whose number is bounded."""

from prometheus_client.parser import text_string_to_metric_families

from iscsi_rp.control.latency import Latencies, SessionLatency, quantile_us
from iscsi_rp.control.metrics import MAX_INITIATORS, array_metrics
from iscsi_rp.control.models import ArrayStatus

STATUS = ArrayStatus(
    name="a", array_id="i", iqn="iqn", portals=[], volumes=[], groups=[], sessions=[], alerts=[]
)


def test_a_quantile_is_the_upper_end_of_its_bucket() -> None:
    counts = [0, 0, 0, 50, 49, 0, 1, 0]
    found = [quantile_us(counts, part) for part in (0.5, 0.51, 0.99, 0.999, 1.0)]
    assert found == [8, 16, 16, 64, 64]
    assert quantile_us([0] * 8, 0.5) is None
    assert quantile_us([0, 0, 3], 1.0) == 4


def test_initiators_do_not_choose_how_many_labels_there_are() -> None:
    count = MAX_INITIATORS + 36
    sessions = [
        SessionLatency(
            session=n, initiator=f"i{n % count}", lun=0, volume="v", reads=[0, 1 + n % count], writes=[0, 0]
        )
        for n in range(2 * count)
    ]
    text = array_metrics(STATUS, Latencies(volumes=[], sessions=sessions)).decode()
    totals = {
        sample.labels["initiator"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("le") == "+Inf" and sample.labels["kind"] == "read"
    }
    assert len(totals) == MAX_INITIATORS + 1
    assert totals.pop("other") == sum(2 * n for n in range(1, 37))
    assert totals == {f"i{n - 1}": 2 * n for n in range(37, count + 1)}
