import math

from iscsi_rp.appliance.load import IDLE_S, WINDOW_S, Load


def test_idle_is_who_has_not_written_for_a_while() -> None:
    load = Load()
    load.see(0, 99.0)
    assert not load.idle  # it is not known yet
    load.see(10, 100.0)
    assert not load.idle
    load.see(10, 100.0 + IDLE_S)
    assert load.idle
    load.see(11, 100.1 + IDLE_S)
    assert not load.idle


def test_writes_are_counted_window_by_window() -> None:
    load = Load()
    load.see(1000, 100.0)
    load.see(9000, 100.0 + WINDOW_S / 2)
    assert load.writes_s == math.inf
    load.see(10000, 100.0 + WINDOW_S)
    assert load.writes_s == 9000 / WINDOW_S
    load.see(15000, 100.0 + 1.5 * WINDOW_S)
    assert load.writes_s == 9000 / WINDOW_S
    load.see(20001, 100.0 + 3 * WINDOW_S)
    assert load.writes_s == 10001 / (2 * WINDOW_S)


def test_much_is_much_at_once() -> None:
    """Not only at the end of its window: a batch would be distributed right when hosts begin to write."""
    load = Load()
    load.see(0, 100.0)
    load.see(0, 100.0 + WINDOW_S)
    assert load.writes_s == 0
    load.see(50000, 100.1 + WINDOW_S)
    assert load.writes_s == 50000 / WINDOW_S
