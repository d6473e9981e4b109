"""Start-up is measured from outside, and its page says the medians."""

import pytest

from bench import page_startup, startup
from bench.startup import Start


def test_lines_are_medians_of_each_figure_and_the_page_shows_them():
    found = {
        ("base", "cold"): [Start(9.0, 5.0, 60, 0, 4.0), Start(7.0, 6.0, 62, 2, 6.0), Start(8.0, 7.0, 61, 1, 5.0)],
        ("base", "warm"): [Start(2.0, 1.0, 60, 60, 0.5)],
    }
    cold, warm = startup.lines("smoke", found)
    assert cold == {
        "peer": "r1jax", "model": "smoke", "measure": "startup", "value": 8.0, "unit": "s", "stage": "base",
        "state": "cold", "n": 3, "span": [7.0, 9.0], "cpu_s": 6.0, "programs": 61.0, "cached": 1.0, "compile_s": 5.0,
    }  # fmt: skip
    text = page_startup.section([{"measure": "machine"}, cold, warm])
    assert "| `smoke` | base | cold | 8.0 (7.0–9.0) | 6.0 | 61 | 1 | 5.0 |" in text
    assert text.splitlines()[-1] == "| `smoke` | base | warm | 2.0 (2.0–2.0) | 1.0 | 60 | 60 | 0.5 |"
    assert page_startup.section([{"measure": "machine"}]) == ""


def test_the_first_row_is_whole_or_not_there(tmp_path):
    assert startup._first_row(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}')  # being written
    assert startup._first_row(tmp_path) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step"')
    assert startup._first_row(tmp_path) == {"step": 1}


@pytest.mark.slow
def test_a_warm_start_reads_its_programs_and_is_faster(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    found = startup.starts("smoke", 1)
    assert list(found) == [("base", "cold"), ("zero", "cold"), ("base", "warm"), ("zero", "warm")]
    for stage in ("base", "zero"):
        (cold,), (warm,) = found[stage, "cold"], found[stage, "warm"]
        assert warm.programs == cold.programs and warm.cached > cold.cached
        assert warm.compile_s < cold.compile_s and 0 < warm.cpu_s < cold.cpu_s
