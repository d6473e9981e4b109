"""Task records: counts and answers of the published sets, disjoint splits, clear errors, no TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from r1jax.data import arithmetic, builders, tasks

ROOT = Path(__file__).resolve().parents[1]
SOURCE_DIR = Path(os.environ.get("R1JAX_SOURCE_DIR", ROOT / "../shared/data"))
needs_source = pytest.mark.skipif(
    not (SOURCE_DIR / "gsm8k").is_dir(), reason=f"no raw data under {SOURCE_DIR}; set R1JAX_SOURCE_DIR"
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def load(name, split, data_dir, source_dir="", **kwargs):
    return tasks.load(name, split, data_dir=data_dir, source_dir=str(source_dir), kwargs=kwargs)


def test_arithmetic_splits_share_no_expression(data_dir):
    train, test = (load("arithmetic", split, data_dir, train_size=2000, test_size=300) for split in ("train", "test"))
    assert (len(train), len(test)) == (2000, 300)
    expressions = [{record["expression"] for record in source} for source in (train, test)]
    assert (len(expressions[0]), len(expressions[1])) == (2000, 300)
    assert not expressions[0] & expressions[1]
    assert not any(map(arithmetic.is_test, expressions[0])) and all(map(arithmetic.is_test, expressions[1]))


def test_arithmetic_records(data_dir):
    source = load("arithmetic", "train", data_dir, train_size=2000, test_size=300)
    records = list(source)
    assert records[5] == source[5]
    for record in records:
        assert record["answer"] == str(eval(record["expression"]))  # our own text
        assert record["expression"] in record["question"] and not record["question"].endswith(".")
        assert record["task"] == "arithmetic"
        assert all(type(value) is str for value in record.values())
    spanish = [record for record in records if record["language"] == "es"]
    assert len(spanish) / 2000 == pytest.approx(0.25, abs=0.04)
    assert all(record["question"].startswith(("¿Cu", "Cu", "Calcula ", "Resuelve ")) for record in spanish)
    assert any(record["question"].startswith("What is ") for record in records)


def test_arithmetic_depends_on_its_seed_and_says_when_problems_run_out(data_dir):
    def questions(seed):
        return list(load("arithmetic", "test", data_dir, train_size=10, test_size=10, seed=seed))

    assert questions(1) != questions(2)
    with pytest.raises(ValueError, match=r"kwargs.train_size is 50; only about \d+ different problems"):
        few = {"operand_shares": (1.0,), "max_operand": 2, "max_operand_pair": 2}
        load("arithmetic", "train", data_dir, train_size=50, test_size=1, problems=few)


@needs_source
def test_gsm8k(data_dir):
    train, test = (load("gsm8k", split, data_dir, SOURCE_DIR) for split in ("train", "test"))
    assert (len(train), len(test)) == (7473, 1319)
    assert train[0]["answer"] == "72" and train[0]["task"] == "gsm8k" and train[0]["language"] == "en"
    assert train[0]["question"].startswith("Natalia sold clips to 48") and "<<48/2=24>>" in train[0]["solution"]
    with (SOURCE_DIR / "gsm8k/train.jsonl").open(encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines]
    records = list(train)
    assert [record["question"] for record in records] == [row["question"] for row in raw]
    assert all(
        float(record["answer"]) == float(row["answer"].split("#### ")[1].replace(",", ""))
        for record, row in zip(records, raw, strict=True)
    )
    assert sum("," in row["answer"].split("####")[1] for row in raw) > 10  # thousands commas do occur
    assert not any("," in record["answer"] for record in records)


@needs_source
def test_math500(data_dir):
    source = load("math500", "test", data_dir, SOURCE_DIR)
    assert len(source) == 500
    assert source[0]["answer"] == r"\left( 3, \frac{\pi}{2} \right)"
    assert (source[0]["level"], source[0]["subject"]) == ("2", "Precalculus")
    assert source[0]["question"].startswith("Convert the point $(0,3)$") and source[0]["solution"]
    with pytest.raises(ValueError, match="split of task 'math500' is 'train'; expected one of 'test'"):
        load("math500", "train", data_dir, SOURCE_DIR)


def test_changed_raw_files_are_read_again(tmp_path, data_dir):
    raw = tmp_path / "gsm8k"
    raw.mkdir()
    for answer in ("#### 1,234", "so\n#### -5", "#### 0.5"):
        for split in ("train", "test"):
            (raw / f"{split}.jsonl").write_text(json.dumps({"question": "q {x}", "answer": answer}) + "\n")
        record = load("gsm8k", "test", data_dir, tmp_path)[0]
        assert record["answer"] == answer.split("#### ")[1].replace(",", "")
    (raw / "test.jsonl").write_text(json.dumps({"question": "q", "answer": "no number"}) + "\n")
    with pytest.raises(ValueError, match=r"test.jsonl line 1: field 'answer' does not end in '#### NUMBER'"):
        load("gsm8k", "test", data_dir, tmp_path)


def test_missing_folder_names_field_value_and_remedy(data_dir):
    with pytest.raises(ValueError, match=r"data.source_dir is '/no/such'.*gsm8k/train.jsonl is not found; give"):
        load("gsm8k", "test", data_dir, "/no/such")


def test_download_that_is_not_the_published_file_is_dropped(tmp_path):
    class Manager:
        def download(self, url):
            (tmp_path / "pointer").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
            return tmp_path / "pointer"

    with pytest.raises(RuntimeError, match=r"holds 2 records; expected 500.*data.source_dir"):
        builders._downloaded(Manager(), "https://example.org/test.jsonl", 500)
    assert not (tmp_path / "pointer").exists()


def test_failed_download_says_what_to_do():
    class Manager:
        def download(self, url):
            raise OSError("no network")

    with pytest.raises(RuntimeError, match=r"could not be downloaded \(no network\).*set data.source_dir"):
        builders._downloaded(Manager(), "https://example.org/test.jsonl", 500)


def test_jsonl(tmp_path, data_dir):
    path = tmp_path / "mine.jsonl"
    rows = [
        {"question": "a {b}?", "answer": "ñ"},
        {"question": "2+2", "answer": 4, "task": "t", "language": "es", "extra": [1]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    source = load(f"jsonl:{path}", "test", data_dir)
    assert list(source) == [
        {"question": "a {b}?", "answer": "ñ", "task": "mine", "language": "en"},
        {"question": "2+2", "answer": "4", "task": "t", "language": "es", "extra": "[1]"},
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "q", "answer": ', r"bad.jsonl line 3 is not JSON .*expected one object a line"),
        ("[1, 2]", r"bad.jsonl line 3 is a list; expected an object"),
        ('{"question": "q"}', r"bad.jsonl line 3: field 'answer' is missing; expected a string"),
        ('{"question": null, "answer": "1"}', r"bad.jsonl line 3: field 'question' is None; expected a string"),
        ('{"question": "q", "answer": ["1"]}', r"bad.jsonl line 3: field 'answer' is \['1'\]; expected a string"),
        ("[" * 100_000, r"bad.jsonl line 3 is not JSON"),
    ],
)
def test_malformed_jsonl_line_is_named_by_number(tmp_path, data_dir, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "q", "answer": "1"}\n\n' + line + '\n{"question": "q", "answer": "1"}\n')
    with pytest.raises(ValueError, match=message):
        load(f"jsonl:{path}", "test", data_dir)


def test_empty_and_absent_jsonl(tmp_path, data_dir):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"empty.jsonl' has no records in split 'test'"):
        load(f"jsonl:{tmp_path}/empty.jsonl", "test", data_dir)
    with pytest.raises(ValueError, match="there is no such file"):
        load(f"jsonl:{tmp_path}/absent.jsonl", "test", data_dir)
    with pytest.raises(ValueError, match="takes no parameters"):
        load(f"jsonl:{tmp_path}/empty.jsonl", "test", data_dir, size=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gsm8k", ("gsm8k", "test")),
        ("gsm8k:train", ("gsm8k", "train")),
        ("arithmetic:", ("arithmetic", "test")),
        ("reasoning_gym:countdown", ("reasoning_gym:countdown", "test")),
        ("reasoning_gym:countdown:train", ("reasoning_gym:countdown", "train")),
        ("jsonl:/path/x.jsonl", ("jsonl:/path/x.jsonl", "test")),
        ("jsonl:/path/x.jsonl:train", ("jsonl:/path/x.jsonl", "train")),
        ("jsonl:C:/path/x.jsonl", ("jsonl:C:/path/x.jsonl", "test")),
        ("nothing:test", ("nothing", "test")),
    ],
)
def test_parse_name(name, expected):
    assert tasks.parse_name(name) == expected


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("gsm9k", "test", "'gsm9k', which is not known; did you mean 'gsm8k'"),
        ("gsm8k:test", "test", "'gsm8k:test', which is not known"),
        ("jsonl", "test", "'jsonl', which is not known; did you mean 'jsonl:PATH'"),
        ("arithmetic_corpus", "train", "did you mean 'arithmetic'"),
        ("gsm8k", "validation", "'validation'; expected one of 'train', 'test'"),
        ("reasoning_gym:countdwn", "test", "did you mean 'reasoning_gym:countdown'"),
    ],
)
def test_unknown_names(name, split, message, data_dir):
    with pytest.raises(ValueError, match=message):
        load(name, split, data_dir)


def test_reasoning_gym_has_its_grader_s_entry(data_dir):
    import reasoning_gym

    kwargs = {"size": 30, "seed": 3, "test_size": 20, "min_numbers": 3, "max_numbers": 3}
    train = load("reasoning_gym:countdown", "train", data_dir, **kwargs)
    assert len(train) == 30
    own = reasoning_gym.create_dataset("countdown", size=30, seed=3, min_numbers=3, max_numbers=3)
    for index in (0, 29, 4):
        record, entry = train[index], json.loads(train[index]["metadata"])
        assert record["question"] == own[index]["question"] and record["task"] == "reasoning_gym:countdown"
        assert len(entry["metadata"]["numbers"]) == 3
        assert own.score_answer(record["answer"], entry) == 1.0 > own.score_answer("1", entry)
    assert all(type(value) is str for value in train[0].values())


def test_reasoning_gym_test_split_drops_what_train_has(data_dir):
    kwargs = {"size": 300, "test_size": 100, "min_terms": 2, "max_terms": 2, "max_digits": 1}
    train, test = (load("reasoning_gym:chain_sum", split, data_dir, **kwargs) for split in ("train", "test"))
    questions = [[record["question"] for record in source] for source in (train, test)]
    assert not set(questions[0]) & set(questions[1])
    assert len(train) == 300 and 0 < len(test) < 100  # so few sums exist that some had to go
    assert list(test) == list(load("reasoning_gym:chain_sum", "test", data_dir, **kwargs))


def test_reasoning_gym_answers_may_be_missing(data_dir):
    record = load("reasoning_gym:graph_color", "train", data_dir, size=2)[0]
    assert record["answer"] == "" and "possible_answer" in record["metadata"]


def test_reasoning_gym_bad_parameters(data_dir):
    with pytest.raises(ValueError, match=r"kwargs is \{'foo': 1\}, which the task does not take"):
        load("reasoning_gym:countdown", "test", data_dir, foo=1)
    with pytest.raises(ValueError, match=r"kwargs.size is 0; expected an integer in 1\.\."):
        load("reasoning_gym:countdown", "train", data_dir, size=0)


def test_indices_out_of_range_end_a_source(data_dir):
    source = load("reasoning_gym:chain_sum", "train", data_dir, size=3)
    with pytest.raises(IndexError):
        source[3]


def test_tensorflow_is_never_imported_and_stdout_stays_clean(tmp_path):
    code = (
        "import sys; from r1jax.data import tasks, corpus\n"
        f"k = dict(data_dir={str(tmp_path)!r})\n"
        "s = tasks.load('arithmetic', 'test', source_dir='', kwargs={'train_size': 5, 'test_size': 5}, **k); s[0]\n"
        "corpus.load('arithmetic_web', kwargs={'documents': 5}, **k)[0]\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'tensorflow']"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Using custom data configuration" not in done.stderr


def test_shares_of_questions_by_language_follow_the_parameter(data_dir):
    for share in (0.0, 1.0):
        source = load("arithmetic", "test", data_dir, train_size=5, test_size=40, spanish=share)
        assert np.mean([record["language"] == "es" for record in source]) == share
    with pytest.raises(ValueError, match=r"kwargs.spanish is 2; expected a share"):
        load("arithmetic", "test", data_dir, spanish=2)
