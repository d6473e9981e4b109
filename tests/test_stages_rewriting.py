"""Completions rewritten into the readable form, by rules and by a model."""

import pytest

from r1jax.config import RewriterConfig
from r1jax.rewards.format import readable as in_form
from r1jax.stages.rewriting import Parts, parts, rewrite, tidy

SUMMARIES = {"en": "The answer is {answer}.", "es": "La respuesta es {answer}."}
RULES = RewriterConfig({}, "")


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (" <think> 3 * 4 = 12. </think> <answer> 12 </answer>", ("3 * 4 = 12.", "12")),
        (" first 3 * 4 = 12. then 2 + 12 = 14. so the answer is 14.", ("first 3 * 4 = 12. then 2 + 12 = 14.", "14")),
        (" primero 3 * 4 = 12. la respuesta es 12.", ("primero 3 * 4 = 12.", "12")),
        ("We add.\nWe add.\n\nAnswer: 7", ("We add.", "7")),
        (" half. the answer is 3.5.", ("half.", "3.5")),
        (" <think> a </think> <answer> {x} </answer>", ("a", "{x}")),
        (" the answer is 14.", None),  # no thought
        (" 3 * 4 = 12.", None),  # no answer
        (" <think> 3 * 4 = 12. <answer> 12 </answer>", None),  # the thought is not closed
        (" <think> 3 * 4 = 12. </think> the answer is 12.", None),  # half a form
        (" <think> </think> <answer> 12 </answer>", None),
        ("", None),
    ],
)
def test_thought_and_answer_are_found(completion, expected):
    assert parts(completion) == (None if expected is None else Parts(*expected))


def test_tidy_drops_tags_line_breaks_and_immediate_repetitions():
    assert tidy(" <think> a b.\n\n a  b. c?  a b. </think> ") == "a b. c? a b."


def done(completions, languages, generate=None, rewriter=RULES):
    questions = [f"q{i}" for i in range(len(completions))]
    return rewrite(completions, questions, languages, range(len(completions)), SUMMARIES, rewriter, generate)


def test_by_rules_in_the_language_of_the_question():
    texts = [" <think> x. </think> <answer> 1 </answer>", " y. la respuesta es {answer}.", " no answer"]
    made = done(texts, ["en", "es", "en"])
    assert [m.text for m in made] == [
        " <think> x. </think> The answer is 1.",
        " <think> y. </think> La respuesta es {answer}.",
        "",
    ]
    assert [m.by for m in made] == ["rules", "rules", ""]
    assert in_form([m.text for m in made]) == [1.0, 1.0, 0.0]


def test_by_a_model_whose_reply_is_tidied_and_which_may_fail():
    seen = []

    def generate(prompts, seeds):
        seen.append((list(prompts), list(seeds)))
        return ["<think> Nicely\nput. </think>", None, "  "]

    texts = [" a. the answer is 1.", " none", " b. the answer is 2.", " c. the answer is 3."]
    made = done(texts, ["en"] * 4, generate, RewriterConfig({"checkpoint": "x"}, "Q {question} T {thought}"))
    assert seen == [(["Q q0 T a.", "Q q2 T b.", "Q q3 T c."], [0, 2, 3])]
    assert [m.by for m in made] == ["model", "", "rules", "rules"]
    assert made[0].text == " <think> Nicely put. </think> The answer is 1."
    assert made[2].text == " <think> b. </think> The answer is 2."
