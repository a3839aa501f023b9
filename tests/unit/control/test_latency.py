"""What histograms say: quantiles."""

from iscsi_rp.control.latency import quantile_us


def test_a_quantile_is_the_upper_end_of_its_bucket() -> None:
    counts = [0, 0, 0, 50, 49, 0, 1, 0]
    found = [quantile_us(counts, part) for part in (0.5, 0.51, 0.99, 0.999, 1.0)]
    assert found == [8, 16, 16, 64, 64]
    assert quantile_us([0] * 8, 0.5) is None
    assert quantile_us([0, 0, 3], 1.0) == 4
