"""Language consistency, on paragraphs built with a known share of foreign words, and by hand-written cases."""

import itertools
import time

import numpy as np
import pytest
from language_sentences import SENTENCES

from r1jax.rewards import language
from r1jax.rewards.answers import accuracy
from r1jax.rewards.language import CHARACTERS_A_WORD, LANGUAGES, LATIN, consistency, shares, thought

FOREIGN = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5)
WORDS = 60


def words(rng, code):
    """At least 60 words of running text, each with the number of words that it counts as."""
    units = []
    for index in rng.permutation(len(SENTENCES[code])):
        if code in CHARACTERS_A_WORD:  # clauses, since there are no spaces
            clauses = SENTENCES[code][index].replace("，", "、").replace("。", "、").strip("、").split("、")
            units += [(clause + "、", len(clause) / CHARACTERS_A_WORD[code]) for clause in clauses]
        else:
            units += [(word, 1.0) for word in SENTENCES[code][index].split()]
        if sum(count for _, count in units) >= WORDS:
            return units
    raise AssertionError(f"too few sentences in {code}")


def opening(units, limit):
    """The first units, up to so many words."""
    return [
        unit for unit, so_far in zip(units, np.cumsum([count for _, count in units]), strict=True) if so_far <= limit
    ]


def mixed(rng, home, away, share, how):
    """A paragraph of 60 words or so, and the share of them that are in the home language."""
    ours, theirs = words(rng, home), words(rng, away)
    if how == "half-way":  # one language, then the other
        units = [(u, True) for u in opening(ours, (1 - share) * WORDS)]
        units += [(u, False) for u in opening(theirs, share * WORDS)]
    elif how == "phrases":  # four at a time
        units, spare = [], iter(theirs)
        for at in range(0, len(ours), 4):
            foreign = list(itertools.islice(spare, 4)) if rng.random() < share else []
            units += [(u, False) for u in foreign] or [(u, True) for u in ours[at : at + 4]]
    else:  # single words, anywhere
        order, pick = iter(rng.permutation(len(theirs))), rng.random(len(ours)) < share
        units = [((theirs[next(order, 0)], False) if p else (u, True)) for u, p in zip(ours, pick, strict=True)]
    total = sum(count for (_, count), _ in units)
    return " ".join(text for (text, _), _ in units), sum(count for (_, count), own in units if own) / total


def errors(pairs, how, seed):
    rng = np.random.default_rng(seed)
    built = [mixed(rng, home, away, share, how) for home, away in pairs for share in FOREIGN]
    homes = [home for home, _ in pairs for _ in FOREIGN]
    measured = consistency(prompts=[""] * len(built), completions=[text for text, _ in built], language=homes)
    return np.abs(np.array(measured) - np.array([share for _, share in built]))


@pytest.mark.parametrize("how", ["half-way", "phrases", "single words"])
def test_shares_of_built_paragraphs(how):
    """Of all pairs, 432 paragraphs; and of those that share the Latin script, which are the hard ones, 216."""
    everything = errors(list(itertools.permutations(LANGUAGES, 2)), how, 0)
    latin = np.concatenate([errors(list(itertools.permutations(LATIN, 2)), how, seed) for seed in (1, 2, 3)])
    print(
        f"{how}: within 5 points {np.mean(everything <= 0.05):.3f} of {len(everything)} of all pairs (largest error "
        f"{everything.max():.3f}), {np.mean(latin <= 0.05):.3f} of {len(latin)} of Latin pairs ({latin.max():.3f})"
    )
    assert np.mean(everything <= 0.05) >= 0.95
    assert np.mean(latin <= 0.05) >= 0.95
    assert max(everything.max(), latin.max()) < 0.15


def score(completion, code="en"):
    return consistency(prompts=[""], completions=[completion], language=[code], task=["any"])[0]


def test_worked_example():
    """Weights 1 and 0.2: the wrong answer in English 0.2, the right one 1.2."""
    o1 = "<think> 2 + 3 = 5, 5 * 4 = 20 </think> <answer> 20 </answer>"
    o2 = "<think> 3 * 4 = 12, 2 + 12 = 14 </think> <answer> 14 </answer>"
    right = accuracy(prompts=["", ""], completions=[o1, o2], answer=["14", "14"], task=["arithmetic"] * 2)
    consistent = consistency(prompts=["", ""], completions=[o1, o2], language=["en", "en"])
    assert [r + 0.2 * c for r, c in zip(right, consistent, strict=True)] == pytest.approx([0.2, 1.2])


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_sentence_is_of_its_language_alone(code):
    for sentence in SENTENCES[code]:
        assert score(sentence, code) > 0.98, sentence
        assert score(sentence, "ru" if code != "ru" else "en") < 0.01, sentence


@pytest.mark.parametrize(
    ("text", "code", "expected"),
    [
        ("We add. 因此我们得到答案 </think> 答案", "en", 2 / (2 + 8 / 1.3)),
        ("计算结果是三。自然数の和を求めます。", "zh", (6 / 1.3) / (6 / 1.3 + 10 / 2)),
        ("東京都の計算結果", "ja", 1.0),
        ("我們這個問題的答案是什麼", "zh", 1.0),  # traditional
        ("x는 3보다 크다", "ko", 1.0),
        ("hello мир and goodbye", "en", 0.75),
        ("שלום to you", "en", 2 / 3),
        ("total", "en", 1.0),  # a word of several languages, alone
        ("total", "es", 1.0),
        ("Die Antwort ist die", "de", 1.0),
        ("Cafe\u0301 con leche por favor", "es", 1.0),  # the accent as a character of its own
        ("xqzt fjkd wrtpl qwrtz blorf", "en", 0.0),
        ("The sum is $x + \\text{sieben und acht}$ so", "en", 1.0),
        ("It costs $5 und das ist viel Geld, mehr als $6", "de", 8 / 10),
        ("We write\n```python\nfür = 3\n```\nand `voilà` it works", "en", 1.0),
        ("\\begin{align}das ist gut\\end{align} so we see that", "en", 1.0),
        ("f(x) = sin x, n_max = 3km", "de", 1.0),
        ("12", "fr", 1.0),
        ("", "en", 0.0),
        ("</think> English words", "en", 0.0),
        ("das ist nicht <think> English words are here", "en", 4 / 7),
        ("``` das ist nicht Englisch", "en", 0.0),  # never closed: it hides nothing
    ],
)
def test_by_hand(text, code, expected):
    assert score(text, code) == pytest.approx(expected, abs=0.05)


def test_doubts_about_single_words_make_no_difference():
    texts = ["<think> first 2 + 5 = 7. next 7 + 6 = 13. </think>", "<think> first 2 + 5 = 7. then 7 + 6 = 13. </think>"]
    fine = [share["en"] for share in shares([thought(text) for text in texts], ["en", "en"])]
    assert fine[0] != fine[1], "in fine they differ, so the next line says something"
    assert consistency(prompts=["", ""], completions=texts, language=["en", "en"]) == [1.0, 1.0]


def test_thought():
    assert thought("<think> a </think> b") == "<think> a "
    assert thought("a</think>b</think>c") == "a</think>b"
    assert thought("no tags") == "no tags"


def test_an_unknown_language_is_named():
    with pytest.raises(ValueError, match="'xx'; expected one of en, "):
        score("hello", "xx")


def test_shares_sum_to_one_and_do_not_depend_on_the_batch(monkeypatch):
    texts = [" ".join(SENTENCES[code][:3]) for code in LANGUAGES] + ["", "12", "a b c", " ".join(SENTENCES["en"] * 9)]
    together = shares(texts, ["en"] * len(texts))
    assert [share is None for share in together] == [False] * 9 + [True] * 3 + [False]
    for text, share in zip(texts, together, strict=True):
        (alone,) = shares([text], ["en"])
        assert (alone is None) == (share is None)
        if share is not None and alone is not None:
            assert sum(share.values()) == pytest.approx(1)
            assert alone == pytest.approx(share, abs=1e-9)
    monkeypatch.setattr(language, "PIECE", 64)  # a long text is cut, and its pieces added up
    assert shares(texts[-1:], ["en"])[0] == pytest.approx(together[-1], abs=1e-3)


def test_forgotten_words_are_learnt_again(monkeypatch):
    before = score("Une phrase courte and a short one")
    monkeypatch.setattr(language, "MAX_CACHED", 0)
    assert score("Une phrase courte and a short one") == pytest.approx(before)


def test_hostile_text_takes_linear_time():
    pieces = ["a", "中", "\\begin{", "$", "<a", "`", "e\u0301", "\\[ ", "_", "http", "$a b", "가", "ʰ", "\0", "\ud800"]
    hostile = [piece * 200_000 for piece in pieces] + ["ab " * 100_000, "\u0301" * 200_000]
    for text in hostile:
        start = time.monotonic()
        assert 0.0 <= score(text) <= 1.0
        assert time.monotonic() - start < 3, text[:10]


@pytest.mark.slow
def test_speed():
    rng = np.random.default_rng(0)
    code_of = [LANGUAGES[i] for i in rng.integers(len(LANGUAGES), size=4000)]
    texts = [" ".join(rng.choice(SENTENCES[code], 3)) for code in code_of]
    for pass_ in ("first", "second"):
        start = time.monotonic()
        consistency(prompts=[""] * len(texts), completions=texts, language=code_of)
        seconds = time.monotonic() - start
        count = sum(len(text.split()) for text in texts)
        print(f"{pass_} pass: {len(texts) / seconds:.0f} completions/s, {count / seconds:.0f} words/s")
    assert len(texts) / seconds > 500
