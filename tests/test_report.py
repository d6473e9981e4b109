"""The report is one file, needs no network, and escapes what a model wrote."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from configs.models.tiny import get_config
from r1jax.config import PolicyConfig
from r1jax.data.dataset import DROPPED, write_dataset
from r1jax.models.policy import parameter_count
from r1jax.report import write_report
from r1jax.report_html import mark
from r1jax.report_runs import read_stages

HOSTILE = "</span></p><script>alert(1)</script><think> a < b & c </think> <answer> 14 </answer> \ud800"


def stage(workdir: Path, steps: int = 3, **config) -> Path:
    workdir.mkdir(parents=True)
    rows = [{"step": s, "reward/mean": s / 10, "reward/accuracy/mean": 0.5, "loss": None} for s in range(1, steps + 1)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sample = {"prompt": HOSTILE, "completion": HOSTILE, "reward": 1.1, "rewards": {"accuracy": 1.0}, "advantage": -0.25}
    lines = [json.dumps({"step": s} | sample) + "\n" for s in (1, 2, steps)]
    (workdir / "samples.jsonl").write_text("".join(lines))
    evaluations = ({"step": s, "task": "a:test", "n": 5, "pass@1": s / 4, "pass@4": 0.5} for s in (0, 3))
    (workdir / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluations))
    (workdir / "result.json").write_text('{"a:test": {"n": 5, "pass@1": 0.914, "mean_tokens": 51.5}}')
    (workdir / "config.json").write_text(json.dumps({"stage": "rl", "seed": 7, "steps": 9} | config))
    return workdir


def answered(workdir: Path, *texts: str, questions: int = 1, task: str = "a:test", correct: tuple = (1.0, 0.0)) -> None:
    """The final evaluation's problems, each with these completions."""
    rows = [
        {"task": task, "index": i, "question": f"What is {i} + 1?", "answer": f"{i + 1}", "language": "en",
         "correct": correct, "format": [1.0] * len(texts), "tokens": [7] * len(texts), "answers": [None] * len(texts),
         "completions": texts}
        for i in range(questions)
    ]  # fmt: skip
    with (workdir / "evaluation.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


class Tags(HTMLParser):
    """Collects tags and addresses, and checks that those that must close do, in order."""

    def __init__(self, page: str):
        super().__init__()
        self.seen, self.open, self.addresses = [], [], []
        self.feed(page)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v and not v.startswith("#")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(tmp_path):
    path = write_report([stage(tmp_path / "zero")])
    page = path.read_text(encoding="utf-8")
    assert path == tmp_path / "zero" / "report.html"
    tags = Tags(page)
    assert tags.addresses == [] and "@import" not in page
    assert tags.seen.count("svg") == 2  # evaluation and reward; the loss is null throughout
    assert tags.seen.count("article") == 2  # first and last step; step 2 is left out
    for text in ("91.4%", "51.5", "advantage -0.25", "accuracy 1", "step 1", "step 3"):
        assert text in page


def test_model_text_is_escaped(tmp_path):
    """Wherever it stands: in samples, in answers to held-out questions, among what was dropped."""
    workdir = stage(tmp_path / "zero", template=HOSTILE)
    answered(workdir, HOSTILE, task=HOSTILE)
    (workdir / "result.json").write_text(json.dumps({"a": {"n": 2, "kept": 0, f"dropped/{HOSTILE}": 2}}))
    write_dataset(workdir / DROPPED, [{"filter": HOSTILE, "completion": HOSTILE}], 1)
    page = write_report([workdir]).read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10
    Tags(page)


def test_mark_colours_thinking_and_answer():
    assert mark("<think>a<b</think>") == '<span class="think"><i>&lt;think&gt;</i>a&lt;b<i>&lt;/think&gt;</i></span>'
    assert mark("<answer>1").endswith("1</span>")
    assert mark("x</answer>") == "x<i>&lt;/answer&gt;</i>"
    assert mark("<b>") == "&lt;b&gt;"
    long = mark("<think>" * 100_000)
    assert long.count("<span") == long.count("</span>") and len(long) < 100_000


def test_pipeline_sections_stand_in_the_order_they_ran(tmp_path):
    run = tmp_path / "run"
    for name in ("zero", "again", "base"):
        stage(run / name, 80)
    os.utime(run / "zero" / "metrics.jsonl", (1, 1))
    (run / "notes").mkdir()
    assert read_stages(run)[0].name == "zero"
    (run / "result.json").write_text('{"base": {}, "zero": {}}')
    assert [s.name for s in read_stages(run)] == ["base", "zero", "again"]
    page = write_report([run]).read_text(encoding="utf-8")
    assert page.index('<section id="s0"><h2>base') < page.index('<section id="s1"><h2>zero')


def pipeline(run: Path, accuracy: float = 0.914) -> Path:
    """A base and two stages of RL, which answered the same questions, and stages that made data and a reward model."""
    zero = {"template": "r1_zero", "init_from": "base", "data": {"sources": {"a": {"name": "arithmetic", "weight": 3}}}}
    zero["rollout"] = {"prompts": 16, "samples": 4}
    rl = {"init_from": "zero", "data": {"sources": {"a": {"name": "samples:made"}, "b": {"name": "general"}}}}
    rl["rewards"] = {"mine": {"kwargs": {"checkpoint": "helpful"}}, "accuracy": {"kwargs": {}}}
    for name, config in {"base": {"stage": "sft"}, "zero": zero, "rl": rl}.items():
        stage(run / name, **config)
        (run / name / "result.json").write_text(
            json.dumps(
                {
                    "a:test": {"n": 5, "pass@1": accuracy, "maj@4": 0.95, "mean_tokens": 51.5},
                    "talk:test": {"n": 5, "pass@1": None, "maj@4": None, "mean_tokens": 8.5},
                }
            )
        )
        answered(run / name, f"<think> {name} thinks </think> {name} says", "second", questions=9)
        answered(run / name, f"{name} greets", task="talk:test", correct=())
    rows = [{"step": s, "reward/language/mean": 0.5, "completion/mean_length": 10.0 * s} for s in (1, 2, 3)]
    (run / "rl" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = stage(run / "made", stage="cold_start", ways={"a": {"init_from": "zero"}, "b": {"init_from": "base"}})
    counts = {"n": 200, "kept": 50, "dropped/too_long": 100, "dropped/mixed_language": 50}
    (made / "result.json").write_text(json.dumps({"sums": counts}))
    write_dataset(made / DROPPED, [{"filter": "too_long", "completion": "on and on"}], 1)
    judge = stage(run / "helpful", stage="reward_model", init_from="base", batch={"examples": 8})
    (judge / "result.json").write_text(json.dumps({"replies:helpful:test": {"n": 40, "accuracy": 0.975}}))
    order = ("base", "zero", "made", "helpful", "rl")
    (run / "result.json").write_text(json.dumps({name: {} for name in order}))
    return run


def overview_of(*runs: Path) -> str:
    page = write_report(list(runs)).read_text(encoding="utf-8")
    Tags(page)
    return page[: page.index("<section")]


def test_stages_stand_side_by_side(tmp_path):
    first = overview_of(pipeline(tmp_path / "run"))
    for title in (
        "Accuracy, stage by stage: a:test", "Length (tokens), stage by stage: a:test",
        "Length (tokens), stage by stage: talk:test", "Completion length (tokens), stage after stage",
        "Language consistency, stage after stage",
    ):  # fmt: skip
        assert first.count(f"<figcaption>{title}</figcaption>") == 1
    assert "Accuracy, stage by stage: talk:test" not in first  # free text has none
    assert first.count(">91<") == first.count(">95<") == 3  # bars of each stage that was evaluated
    results = first[: first.index("Every figure")]
    figures = "<td class='n first'>91.4%</td><td class='n'>51.5</td><td class='n first'>8.5</td>"
    assert f"<tr><td>zero</td>{figures}</tr>" in results
    assert "<tr><td>made</td><td class=soft colspan=3>50 kept of 200 sums</td></tr>" in results
    assert "<td>helpful</td><td class=soft colspan=3>97.5% of 40 replies:helpful:test ranked rightly</td>" in results


def test_where_weights_and_data_come_from(tmp_path):
    run = pipeline(tmp_path / "run")
    for name, seconds in (("config.json", 1000), ("result.json", 1000 + 3600 + 125)):
        os.utime(run / "zero" / name, (seconds, seconds))
    first = overview_of(run)
    rows = first[first.index("Where the weights") : first.index("Kept and rejected")]
    assert "<td>base</td><td>sft</td><td>scratch</td>" in rows
    assert "<td>zero</td><td>rl</td><td>base</td><td>r1_zero</td><td>arithmetic</td><td>192 completions</td>" in rows
    assert "<td class=n>3 of 9</td>" in rows and "<td class=n>1:02:05</td>" in rows
    assert "<td>made</td><td>cold_start</td><td>zero (a), base (b)</td>" in rows and "<td>200 samples</td>" in rows
    assert "<td>zero, scored by helpful</td><td></td><td>made (50 samples) 50%, general 50%</td>" in rows
    assert "<td>helpful</td><td>reward_model</td><td>base</td><td></td><td></td><td>24 examples</td>" in rows


def test_what_was_rejected_and_why(tmp_path):
    rows = overview_of(pipeline(tmp_path / "run"))
    rows = rows[rows.index("Kept and rejected") :]
    for what, count, width in (("sampled", 200, "12.00"), ("dropped: too long", 100, "6.00"), ("kept", 50, "3.00")):
        row = f"<td>{what}</td><td><span class=bar style='width:{width}rem'></span></td><td class=n>{count}</td>"
        assert row in rows
    assert "<span class=example>on and on</span>" in rows


def test_every_stage_answers_the_same_questions(tmp_path):
    first = overview_of(pipeline(tmp_path / "run"))
    same = first[first.index("The same questions") :]
    assert [f"What is {i} + 1?" in same for i in range(9)].count(True) == 4  # spread over the nine
    assert same.count("<details open>") == 2  # the first of each task
    for name in ("base", "zero", "rl"):
        text = f'<span class="think"><i>&lt;think&gt;</i> {name} thinks <i>&lt;/think&gt;</i></span> {name} says'
        row = f"<td>{name}</td><td><b class=good>✓</b></td><td><span class=out> {text}</span></td>"
        assert same.count(row.replace("out> ", "out>")) == 4
        assert f"<td>{name}</td><td></td><td><span class=out>{name} greets</span></td>" in same
    assert "second" not in same and "made" not in same


def test_language_is_told_where_a_task_has_several(tmp_path):
    run = pipeline(tmp_path / "run")
    thought = {
        "en": "<think> first we multiply both numbers because the question wants their product </think> 5",
        "es": "<think> primero multiplicamos los números porque la pregunta quiere su producto",
    }
    for name, said in (("base", ("en", "en")), ("zero", ("en", "es"))):
        rows = [
            {"task": "a:test", "index": i, "question": str(i), "answer": "5", "language": language, "correct": [1.0],
             "format": [1.0], "tokens": [7], "answers": ["5"], "completions": [thought[said[i]]]}
            for i, language in enumerate(("en", "es"))
        ]  # fmt: skip
        (run / name / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = overview_of(run)
    chart = first[first.index("Language consistency of the thought, stage by stage: a:test") :]
    chart = chart[: chart.index("</figure>")]
    assert ">100<" in chart and ">50<" in chart  # zero's, the base's


def test_parameters_are_counted_from_the_config(tmp_path):
    policy = get_config().to_dict()
    page = write_report([stage(tmp_path / "zero", policy=policy)]).read_text(encoding="utf-8")
    total, active = parameter_count(PolicyConfig(**policy))
    assert f"{total / 1e6:.4g}M</td><td class=n>{active / 1e3:.4g}k" in page
    del policy["width"]  # a config of another release
    page = write_report([stage(tmp_path / "older", policy=policy)]).read_text(encoding="utf-8")
    assert "<td class=n>–</td><td class=n>–</td>" in page


def test_several_runs_on_one_page(tmp_path):
    page = write_report([pipeline(tmp_path / "one"), stage(tmp_path / "two")]).read_text(encoding="utf-8")
    Tags(page)
    assert page.count("<section") == 6 and "<h1>one · two</h1>" in page


def test_two_seeds_of_a_pipeline_are_compared_stage_by_stage(tmp_path):
    """Equal stages stand under each other, and side by side in the charts."""
    first = overview_of(pipeline(tmp_path / "s0" / "r1"), pipeline(tmp_path / "s1" / "r1", accuracy=0.873))
    assert "<h1>s0/r1 · s1/r1</h1>" in first and "<p><b>s1/r1</b> <a" in first
    results = first[: first.index("Every figure")]
    rows = [f"<tr><td>zero · s{seed}/r1</td><td class='n first'>{share}%" for seed, share in ((0, 91.4), (1, 87.3))]
    assert 0 < results.index(rows[0]) < results.index(rows[1]) < results.index("<tr><td>made · s0/r1")
    ladder = first[first.index("Accuracy, stage by stage: a:test") :]
    ladder = ladder[: ladder.index("</figure>")]
    assert ladder.count(">91<") == ladder.count(">87<") == 3 and ">s0/r1<" in ladder and "maj@4" not in ladder
    same = first[first.index("The same questions") :]
    assert same.index("<td>base · s0/r1</td>") < same.index("<td>base · s1/r1</td>") < same.index("<td>zero · s0/r1")


def test_runs_of_one_stage_are_compared_in_one_picture(tmp_path):
    """Each metric has a picture with a curve a run, from the same first step, and each task a bar a run."""
    runs = [stage(tmp_path / name) for name in ("cold", "hot")]
    first = overview_of(*runs)
    reward = first[first.index("<figcaption>Reward, all runs</figcaption>") :]
    reward = reward[: reward.index("</figure>")]
    assert ">cold<" in reward and ">hot<" in reward
    ticks = [float(tick) for tick in re.findall(r">(\d+\.?\d*)</text>", reward)]
    assert max(ticks) == 3.0, "one over the other, not one after the other"
    bars = first[first.index("Accuracy, run by run: a:test") :]
    assert bars[: bars.index("</figure>")].count(">91<") == 2
    assert "<td>rl · hot</td>" in first and "stage after stage" not in first


def test_a_sweep_is_its_runs(tmp_path):
    made = {f"{arm}/{seed}": f"../shared/{arm}{seed}" for arm in ("none", "hot") for seed in (0, 1)}
    for folder in made.values():
        stage(tmp_path / "sweep" / folder)
    (tmp_path / "sweep").mkdir(exist_ok=True)
    (tmp_path / "sweep" / "runs.json").write_text(json.dumps(made))
    page = write_report([tmp_path / "sweep"]).read_text(encoding="utf-8")
    assert page.count("<section") == 4 and "<h1>sweep</h1>" in page
    assert page.index("<td>rl · none/0</td>") < page.index("<td>rl · hot/1</td>")


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_report([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no run"):
        write_report([tmp_path / "empty"])
    workdir = stage(tmp_path / "zero")
    (workdir / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is not JSON"):
        write_report([workdir])
    assert not (workdir / "report.html").exists()


def test_verb(tmp_path):
    workdir, out = stage(tmp_path / "zero"), tmp_path / "page.html"
    command = [sys.executable, "-m", "r1jax.report", str(workdir), f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"report": str(out)}
    assert out.exists()
