"""The smoke pipeline: every stage runs, in order, records what DESIGN promises, and is skipped when it is finished."""

import json

import smoke_run

from r1jax import pipeline

FIGURES = {"n", "pass@1", "pass@4", "maj@4", "format", "mean_tokens"}


def test_result_is_as_promised():
    folder = smoke_run.finished()
    result = json.loads((folder / "returned.json").read_text())
    assert list(result) == ["stages", "report"] and list(result["stages"]) == ["base", "zero"]
    for figures in result["stages"].values():
        assert set(figures) == {"arithmetic:test"} and set(figures["arithmetic:test"]) == FIGURES
        assert figures["arithmetic:test"]["n"] == 8
    assert json.loads((folder / "result.json").read_text()) == result["stages"]
    assert result["report"] == str(folder / "report.html")
    assert "arithmetic:test" in (folder / "report.html").read_text()


def test_finished_pipeline_says_so_and_trains_nothing(capsys):
    folder = smoke_run.finished()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/*")}
    result = pipeline.run(smoke_run.config(), str(folder))
    said = capsys.readouterr().err
    assert "base: finished already" in said and "zero: finished already" in said
    first, second = (line for line in said.splitlines() if line.startswith("== stage"))
    assert first.startswith("== stage 1 of 2: base (sft), 0:00:") and first.endswith("; then zero")
    assert second.startswith("== stage 2 of 2: zero (rl), 0:00:") and second.endswith("; then the report")
    table = said[said.index("\nstage ") :]
    assert "pass@1" in table.splitlines()[1]
    assert table.index("\nbase ") < table.index("\nzero ") < table.index("report: ")
    assert result == json.loads((folder / "returned.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/*")}
