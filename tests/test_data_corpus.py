"""Pretraining documents: no test expression, the shares asked for, a function of seed and index, stored once."""

import collections
import dataclasses
import re
import time

import numpy as np
import pytest

from r1jax.data import arithmetic, builders, corpus, documents, templates
from r1jax.data.arithmetic import Arithmetic
from r1jax.data.documents import Mixture

COUNT = 5000
PROMPT_HEAD = templates.render("r1_zero", "~").split("~")[0]
STEP = re.compile(r"(?<![-+*] )(?<![-\d])(-?\d+ [-+*] -?\d+) (?:=|is) (-?\d+)")  # not the end of a longer one
WHOLE = re.compile(r"\(?\d+(?: [-+*] \(?-?\d+\)?)+")
FULL = re.compile(r" <think> [^<>]+ </think> <answer> -?\d+ </answer>")


@pytest.fixture(scope="module")
def texts():
    return [documents.document(7, index, Mixture(), Arithmetic()) for index in range(COUNT)]


@pytest.fixture(scope="module")
def completions(texts):
    """Question's expression and completion of the template documents."""
    pairs = [text.removeprefix(PROMPT_HEAD).split(". Assistant:") for text in texts if text.startswith(PROMPT_HEAD)]
    return [(WHOLE.search(question)[0], completion) for question, completion in pairs]


def test_no_test_expression_stands_in_any_document(texts):
    steps = {step for text in texts for step, _ in STEP.findall(text)}
    runs = {run.strip() for text in texts for run in re.split(r"[^-+*() 0-9]+", text)}
    wholes = {run for run in runs if re.search(r"\d [-+*]", run)}
    assert len(steps) > 2000 and len(wholes) > 3000 and len(steps - wholes) < 10
    assert [e for e in steps | wholes if arithmetic.is_test(e)] == []


def test_held_out_finds_expressions_in_text():
    held = next(f"{a} + {b} * 2" for a in range(1, 10) for b in range(1, 100) if arithmetic.is_test(f"{a} + {b} * 2"))
    pair = next(f"{a} - {b}" for a in range(1, 40) for b in range(1, 40) if arithmetic.is_test(f"{a} - {b}"))
    for found in (f"What is {held}?", f"so {pair} = 5. then", f"1 = 1\n{pair}", f"({pair}) is", f"x: {held} = 2 = 3"):
        assert documents.held_out(found), found
    for missed in ("What is 3 * 4?", "12", "", f"What is {held} + 1?" if not arithmetic.is_test(f"{held} + 1") else ""):
        assert not documents.held_out(missed), missed


def test_shares_are_those_of_the_mixture(texts, completions):
    within = {"abs": 3 * 0.5 / np.sqrt(COUNT)}
    assert len(completions) / COUNT == pytest.approx(0.25, **within)
    facts = [t for t in texts if re.fullmatch(r"(?:-?\d+ [-+*] -?\d+ = -?\d+[.,]?\s?)+", t) and t.count("=") > 3]
    assert len(facts) / COUNT == pytest.approx(0.35, **within)
    within = {"abs": 3 * 0.5 / np.sqrt(len(completions))}
    tagged = [(e, c) for e, c in completions if FULL.fullmatch(c)]
    assert len(tagged) / len(completions) == pytest.approx(0.40, **within)
    untagged = [c for _, c in completions if "<" not in c]
    assert len(untagged) / len(completions) == pytest.approx(0.40, **within)  # worked + direct
    right = [arithmetic.value(e) == int(c.split("<answer> ")[1].split()[0]) for e, c in tagged]
    # Half are careful and right; of the careless, those who work from left to right may come out right by luck.
    lucky = [arithmetic.solve_left_to_right(e)[-1].result == arithmetic.value(e) for e, _ in tagged]
    expected = 0.5 + 0.5 * 0.75 * np.mean(lucky)
    assert np.mean(right) == pytest.approx(expected, abs=3 * 0.5 / np.sqrt(len(right)))
    spanish = [t for t in texts if t.startswith(PROMPT_HEAD) and re.search(r"User: (¿|Cu|Calcula |Resuelve)", t)]
    assert len(spanish) / len(completions) == pytest.approx(0.25, **within)


def test_facts_are_right_and_solutions_are_wrong_in_the_shares_said(texts):
    for text in texts:
        if re.fullmatch(r"(?:-?\d+ [-+*] -?\d+ = -?\d+[.,]?\s?)+", text) and text.count("=") > 3:
            assert all(eval(step) == int(result) for step, result in STEP.findall(text)), text  # our own text
    kinds = collections.Counter()
    rng, wrong = np.random.default_rng(0), Mixture(left_to_right=0.6, guess=0.15)
    for _ in range(3000):
        kinds[documents.solve_somehow(rng, "2 + 3 * 4", 0.4, wrong).kind] += 1
    expected = {"right": 0.4, "left_to_right": 0.36, "guess": 0.09, "slip": 0.15}
    assert {k: n / 3000 for k, n in kinds.items()} == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("expression", ["2 + 3 * 4", "8 - (2 - 5) * 2", "7 + 5", "3 * (2 - 2)"])
def test_wrong_solutions_are_wrong_and_carry_on_faithfully(expression):
    rng = np.random.default_rng(1)
    for _ in range(300):
        solution = documents.solve_somehow(rng, expression, 0.0, Mixture())
        assert (solution.answer == arithmetic.value(expression)) == (solution.kind == "right")
        slips = [step for step in solution.steps if eval(step.expression) != step.result]
        assert len(slips) == {"right": 0, "left_to_right": 0, "guess": 0, "slip": 1}[solution.kind]
        if solution.steps:
            assert solution.states[-1] == str(solution.answer) == str(solution.steps[-1].result)
    # From left to right is wrong where precedence or brackets matter, and right elsewhere.
    careless = Mixture(left_to_right=1.0, guess=0.0)
    flat = documents.solve_somehow(rng, expression, 0.0, careless)
    assert flat.kind == (
        "right" if expression == "7 + 5" or flat.answer == arithmetic.value(expression) else "left_to_right"
    )
    left = documents.solve_somehow(rng, "2 + 3 * 4", 0.0, careless)
    assert (left.answer, left.states) == (20, ("5 * 4", "20"))


def test_think_blocks_are_short_and_all_numbers_stay_small(completions):
    work = [c.split("</think>")[0].removeprefix(" <think> ") for _, c in completions if FULL.fullmatch(c)]
    assert 20 < np.mean([len(w) for w in work]) < 45
    assert max(abs(int(n)) for _, c in completions for n in re.findall(r"-?\d+", c)) <= 99 + 10


def test_both_languages_and_switches():
    always = dataclasses.replace(Mixture(), facts=0, solutions=1, dialogue=0, statements=0, template=0, spanish=1.0)
    words = {"es": r"\b(respuesta|es|luego|primero)\b", "en": r"\b(answer|it is|then|next)\b"}

    def share(mixture, language):
        found = [documents.document(0, i, mixture, Arithmetic()) for i in range(400)]
        return np.mean([bool(re.search(words[language], text)) for text in found])

    assert share(dataclasses.replace(always, switch=0.0), "en") == 0
    assert share(dataclasses.replace(always, switch=1.0), "en") > 0.4
    assert share(dataclasses.replace(always, spanish=0.0, switch=0.0), "es") == 0


def test_terse_is_the_share_of_works_without_words():
    solution = documents.Solution("1 + 2 + 3", "right", tuple(arithmetic.solve("1 + 2 + 3")), (), 6)

    def share(terse, languages):
        rng = np.random.default_rng(0)
        works = [documents.write_work(rng, solution, languages, terse) for _ in range(400)]
        return np.mean([work == "1 + 2 = 3. 3 + 3 = 6." for work in works])

    assert share(0.0, ("en", "en")) == 0
    assert share(1.0, ("en", "en")) == 1
    assert 0.33 < share(0.4, ("es", "es")) < 0.47
    assert share(1.0, ("en", "es")) == 0, "a work that changes language has words to change"


def test_most_steps_of_test_problems_are_in_the_facts(texts):
    known = {step for text in texts for step, result in STEP.findall(text)}
    rng, needed = np.random.default_rng(0), []
    while len(needed) < 2000:
        expression = arithmetic.draw(rng, Arithmetic(operand_shares=(0.0, 0.7, 0.3)))
        needed += [s.expression for s in arithmetic.solve(expression) if arithmetic.is_test(expression)]
    assert np.mean([step in known or arithmetic.is_test(step) for step in needed]) > 0.95


def test_a_document_is_a_function_of_seed_and_index(texts):
    assert documents.document(7, 4321, Mixture(), Arithmetic()) == texts[4321]
    assert documents.document(8, 4321, Mixture(), Arithmetic()) != texts[4321]
    assert len(set(texts)) > 0.9 * COUNT


def test_generation_is_fast():
    start = time.process_time()
    for index in range(1000):
        documents.document(0, index, Mixture(), Arithmetic())
    assert time.process_time() - start < 1.0  # 60,000 would take a minute at this bound; usual is 0.2


def test_load_stores_the_documents_in_order(tmp_path, texts):
    kwargs = {"documents": 300, "seed": 7}
    source = corpus.load("arithmetic_web", data_dir=str(tmp_path), kwargs=kwargs)
    assert len(source) == 300
    assert [source[i] for i in (0, 299, 17)] == [{"text": texts[i]} for i in (0, 299, 17)]
    assert [record["text"] for record in source] == texts[:300]
    with pytest.raises(IndexError):
        source[300]


def test_changed_parameters_never_meet_old_records(tmp_path, monkeypatch):
    def folders():
        return {path.name for path in (tmp_path / "arithmetic_corpus").iterdir()}

    def load(**kwargs):
        return corpus.load("arithmetic_web", data_dir=str(tmp_path), kwargs={"documents": 20, **kwargs})

    first = list(load())
    assert len(folders()) == 1
    assert list(load()) == first and len(folders()) == 1  # reused
    assert list(load(seed=1)) != first
    assert list(load(mixture={"spanish": 1.0})) != first
    assert list(load(problems={"max_operand": 5})) != first
    assert len(folders()) == 4
    monkeypatch.setattr(builders.documents, "document", lambda *args: "never called for stored records")
    assert list(load()) == first


def test_what_an_interrupted_run_leaves_is_not_trusted(tmp_path, monkeypatch):
    def stop_at_five(seed, index, *rest):
        if index == 5:
            raise KeyboardInterrupt
        return f"half {index}"

    kwargs = {"documents": 20}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builders.documents, "document", stop_at_five)
        corpus.load("arithmetic_web", data_dir=str(tmp_path), kwargs=kwargs)
    assert not list(tmp_path.rglob("1.0.0"))
    # A killed process cannot clean up: its folder stays, under another name.
    (fingerprint,) = (tmp_path / "arithmetic_corpus").iterdir()
    left = fingerprint / "incomplete.ABCDEF_1.0.0"
    left.mkdir()
    (left / "arithmetic_corpus-train.array_record-00000-of-00001").write_bytes(b"half")
    source = corpus.load("arithmetic_web", data_dir=str(tmp_path), kwargs=kwargs)
    assert len(source) == 20 and not any(record["text"].startswith("half") for record in source)


def test_two_processes_may_prepare_the_same_records(tmp_path, monkeypatch):
    prepare = builders.ArithmeticCorpusBuilder.download_and_prepare

    def second_to_rename(self, **kwargs):
        prepare(self, **kwargs)
        raise OSError("Directory not empty")

    monkeypatch.setattr(builders.ArithmeticCorpusBuilder, "download_and_prepare", second_to_rename)
    assert len(corpus.load("arithmetic_web", data_dir=str(tmp_path), kwargs={"documents": 20})) == 20


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"document": 5}, r"kwargs.document is not a parameter; did you mean 'documents'"),
        ({"documents": 0}, r"kwargs.documents is 0; expected at least 1"),
        ({"documents": "5"}, r"kwargs.documents is '5' \(str\); expected"),
        ({"seed": -1}, r"kwargs.seed is -1; expected 0 or more"),
        ({"mixture": {"fact": 0.1}}, r"kwargs.mixture.fact is not a parameter; did you mean 'facts'"),
        ({"mixture": {"facts": 0.9}}, r"mixture.facts \+ .* is 1.55; expected shares that sum to 1"),
        ({"mixture": {"right": 1.2}}, r"mixture.right is 1.2; expected a share"),
        ({"mixture": {"guess": 0.9}}, r"left_to_right \+ guess is over 1"),
    ],
)
def test_bad_parameters_are_named(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        corpus.load("arithmetic_web", data_dir=str(tmp_path), kwargs=kwargs)
    assert not list(tmp_path.iterdir())


def test_unknown_corpus_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"'arithmetic_wab'.*did you mean 'arithmetic_web'"):
        corpus.load("arithmetic_wab", data_dir=str(tmp_path), kwargs={})
