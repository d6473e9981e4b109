"""Which samples are kept: each filter on a planted sample, held-out overlaps, near-duplicates against brute force."""

import dataclasses
import random

import pytest

from r1jax.config import SelectionConfig, TaskSpec
from r1jax.stages import selection
from r1jax.stages.collection import counts
from r1jax.stages.selection import HeldOut, jaccard, judge, ngrams, select, similar, words

CONFIG = SelectionConfig(
    threshold=1.0,
    keep="all",
    filters={"mixed_language": {}, "long_paragraphs": {"maximum": 20}, "code_blocks": {}, "repetitive": {"ngram": 4}},
    held_out={"t": TaskSpec("arithmetic", {})},
    held_out_ngram=10,
    similar_ngram=3,
    similarity=0.8,
)
HELD = "If Ana has two baskets with nine apples each, how many apples are there in all?"
GOOD = " <think> there are three of them. then add four more. </think> The answer is 7."


def sample(completion=GOOD, question="What is 3 + 4?", reward=1.0, source="a", index=0, number=0):
    return {"completion": completion, "question": question, "reward": repr(reward), "source": source,
            "index": str(index), "sample": str(number), "filter": ""}  # fmt: skip


PLANTED = {
    "": sample(),
    "reward": sample(reward=0.5),
    "form": sample(completion=""),
    "mixed_language": sample(" <think> hay tres de ellos. then add four more. </think> The answer is 7."),
    "long_paragraphs": sample(" <think> " + "so we add one more to it " * 6 + " </think> The answer is 7."),
    "code_blocks": sample(" <think> code helps us.\n```\nx = 7\n``` </think> The answer is 7."),
    "repetitive": sample(" <think> it is seven. it is seven. it is seven. it is seven. </think> The answer is 7."),
    "held_out": sample(question=f"Think. {HELD}"),
}


@pytest.mark.parametrize("drop", PLANTED)
def test_a_planted_sample_of_each_kind_is_dropped(drop):
    assert judge(PLANTED[drop], True, {"language": "en"}, CONFIG, HeldOut([HELD], 10)) == drop


def test_what_was_cut_off_is_dropped():
    assert judge(sample(), False, {"language": "en"}, CONFIG, HeldOut([], 10)) == "truncated"


def test_no_filter_no_drop():
    free = dataclasses.replace(CONFIG, filters={}, threshold=0.0)
    assert {judge(s, True, {}, free, HeldOut([], 10)) for s in PLANTED.values()} == {"", "form"}


def test_overlaps_are_runs_of_words_and_short_questions_wholes():
    held = HeldOut([HELD, "What is 3 + 4?"], 10)
    told = HELD.upper().replace(" ", "\n ").removesuffix("?")
    assert held.overlaps(sample(f" we know: {told} anyway", "Other?"))
    nine = "Ana has two baskets with nine apples each,"  # nine words and signs
    assert len(words(nine)) == 9 and not held.overlaps(sample(nine, "Other?"))
    assert held.overlaps(sample("x", "what is  3+4 ?"))
    assert not held.overlaps(sample("x", "What is 3 - 4?")) and not held.overlaps(sample("x", "What is 3 + 4 * 2?"))
    assert not held.overlaps(sample("3 + 4. What is 3 + 4?", "Other?"))  # a short one as a part tells nothing


def test_similar_is_what_brute_force_finds():
    draw = random.Random(0)
    texts = []
    for _ in range(150):
        base = draw.choice(texts).split() if texts and draw.random() < 0.6 else draw.choices("abcdefgh", k=12)
        base = [draw.choice("abcdefgh") if draw.random() < 0.06 else word for word in base]
        texts.append(" ".join(base[: draw.randint(1, 14)] if draw.random() < 0.2 else base))
    for n in (1, 2, 3):
        for least in (0.3, 0.5, 0.7, 0.9, 1.0):
            runs, kept, expected = [ngrams(words(text), n) for text in texts], list[int](), []
            for i, own in enumerate(runs):
                expected.append(any(jaccard(own, runs[j]) >= least - 1e-9 for j in kept))
                kept += [] if expected[-1] else [i]
            assert similar(texts, n, least) == expected
            assert 0 < sum(expected) < len(texts)


def test_equal_after_normalisation_is_similar():
    assert similar(["One, TWO three.", "one ,two  ＴＨＲＥＥ .", "one, two four."], 3, 1.0) == [False, True, False]


def test_jaccard_by_hand():
    assert jaccard(ngrams("abcd", 2), ngrams("bcde", 2)) == pytest.approx(2 / 4)
    assert ngrams("ab", 3) == {("a", "b")}


def test_the_best_of_a_prompt_is_kept_or_all():
    samples = [
        sample("one two three four", reward=1.0, number=0),
        sample("five six seven eight", reward=1.5, number=1),
        sample("nine ten eleven twelve", reward=1.5, number=2),
        sample("red green blue white", reward=1.0, index=1),
        sample("five six seven eight", reward=1.0, index=2),
    ]
    assert select(samples, CONFIG) == ["", "", "", "", "similar"]
    best = dataclasses.replace(CONFIG, keep="best")
    assert select(samples, best) == ["not_best", "", "not_best", "", "similar"]
    other = dataclasses.replace(best, similarity=1.0)
    samples[4]["completion"] = "five six seven nine"
    assert select(samples, other) == ["not_best", "", "not_best", "", ""]


def test_counts_add_up():
    samples = [{"filter": name} for name in ("", "", "reward", "similar", "reward")]
    assert counts(samples) == {"n": 5, "kept": 2, "dropped/reward": 2, "dropped/similar": 1}
    assert counts([]) == {"n": 0, "kept": 0}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("keep", "bst", r"selection\.keep is 'bst'.*did you mean 'best'"),
        ("similarity", 0.0, r"selection\.similarity is 0\.0; expected above 0"),
        ("threshold", float("nan"), r"selection\.threshold is nan"),
        ("held_out_ngram", 0, r"selection\.held_out_ngram is 0"),
    ],
)
def test_bad_fields_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **{field: value})
    assert selection.FORM == "form"
