"""Templates: the R1-Zero text to the letter, questions put in literally."""

import pytest

from r1jax.data import templates

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. The reasoning "
    "process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: What is 2 + 3 * 4?. Assistant:"
)


def test_r1_zero_is_to_the_letter():
    assert templates.render("r1_zero", "What is 2 + 3 * 4?") == R1_ZERO


@pytest.mark.parametrize(
    "question", ["the set {1, 2}", "{}", "{0} {prompt!r}", "100% of \\frac{1}{2}", "¿Cuánto es 2?"]
)
def test_questions_are_put_in_literally(question):
    assert templates.render("plain", question) == question
    assert f"User: {question}. Assistant:" in templates.render("r1_zero", question)


def test_every_template_has_one_slot_and_its_stops():
    assert templates.STOP == {"r1_zero": ("</answer>",), "r1": (), "plain": (), "chat": ()}
    assert set(templates.STOP) == {*templates.TEMPLATES, templates.CHAT}
    assert all(text.count("{prompt}") == 1 and "\n" not in text for text in templates.TEMPLATES.values())


def test_unknown_template_names_the_nearest():
    with pytest.raises(ValueError, match=r"'r1zero'.*did you mean 'r1_zero'"):
        templates.render("r1zero", "x")
