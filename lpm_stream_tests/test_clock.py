import time

from lpm_stream.clock import WallClock


def test_a_clock_that_is_set_is_noticed_once(monkeypatch, caplog):
    clock = WallClock()
    clock.look()
    assert caplog.text == ""
    right = time.time
    for offset, said in ((7_200, "+7200 s"), (-7_200, "-14400 s"), (0, "+7200 s")):
        monkeypatch.setattr(time, "time", lambda offset=offset: right() + offset)
        caplog.clear()
        clock.look()
        clock.look()
        assert len(caplog.records) == 1
        assert f"jumped by {said}" in caplog.text
