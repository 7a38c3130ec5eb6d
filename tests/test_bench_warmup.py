"""The benchmark of the warm-up on tiny models: equal where it should be."""

from __future__ import annotations

import pytest

from rankdistill.bench import warmup
from rankdistill.bench.results import Unequal
from rankdistill.bench.settings import BenchSettings
from rankdistill.warmup.teachers import Divergence

TINY = BenchSettings("tiny", rounds=1)


def test_ways_that_compute_the_same_are_equal(capsys):
    rows = warmup.run(TINY)
    assert [(row.theirs, row.ours) for row in rows][:3] == [
        (warmup.NAIVE, warmup.LIVE), (warmup.NAIVE, warmup.HIDDEN), (warmup.NAIVE, warmup.TOP),
    ]  # fmt: skip
    for row in rows:
        assert row.differences and row.differences["gradient"] < 1e-4
        assert row.differences["gradient"] > 0 and row.limit and row.limit > 1
    limits = {(row.theirs, row.ours): row.limit for row in rows}
    assert limits[warmup.LIVE, warmup.TOP] > limits[warmup.LIVE, warmup.HIDDEN]
    said = capsys.readouterr().out
    assert "top_k: " in said and "bytes per token" in said


def test_another_divergence_is_no_row(monkeypatch):
    monkeypatch.setattr(warmup, "KL", Divergence("reverse_kl", 2.0))
    with pytest.raises(Unequal, match="of 'live teacher' is"):
        warmup.run(TINY)
