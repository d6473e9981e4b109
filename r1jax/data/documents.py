"""Pretraining documents: text about arithmetic as the web has it, right and wrong, in English and Spanish.

Every expression in a document is written with digits and operators, so that `held_out` can find it: a document
that holds a test expression, even as a step, is drawn again.
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from r1jax.data import arithmetic, templates
from r1jax.data.arithmetic import Arithmetic, Step, below

# How people ask. None ends in a full stop: the R1-Zero template adds its own.
QUESTIONS = {
    "en": ("What is {}?", "Calculate {}", "How much is {}?", "Compute {}", "What is the value of {}?", "Solve {}"),
    "es": ("¿Cuánto es {}?", "Calcula {}", "¿Cuál es el resultado de {}?", "Cuánto es {}", "Resuelve {}"),
}
_CONNECTORS = {"en": ("first", ("then", "next", "so")), "es": ("primero", ("luego", "después", "entonces"))}
_RULES = {
    "en": {"*": "multiply first:", "(": "brackets first:", "": "step by step:", "wrong": "left to right:"},
    "es": {"*": "primero multiplicar:", "(": "primero el paréntesis:", "": "paso a paso:", "wrong": "en orden:"},
}
_ANSWERS = {
    "en": ("the answer is {}.", "so the answer is {}.", "answer: {}.", "it is {}."),
    "es": ("la respuesta es {}.", "entonces la respuesta es {}.", "respuesta: {}.", "es {}."),
}
_GUESSES = {"en": ("i think it is {}.", "maybe {}."), "es": ("creo que es {}.", "quizás {}.")}
_ASIDES = {"en": ("let us see.", "i am not sure."), "es": ("vamos a ver.", "no sé.")}
_STATEMENTS = {
    "en": (
        "{rule} {whole} is {state}.",
        "{whole} is {state}, because {step}.",
        "{left} comes before {after}. {right} comes before {after_right}.",
        "twice {left} is {double}.",
        "numbers can be added, subtracted and multiplied. {step} is an example.",
        "brackets come first, then products, then sums. in {whole} the first step is {step}.",
    ),
    "es": (
        "{rule} {whole} es {state}.",
        "{whole} es {state}, porque {step}.",
        "el {left} va antes del {after}. el {right} va antes del {after_right}.",
        "el doble de {left} es {double}.",
        "los números se suman, se restan y se multiplican. {step} es un ejemplo.",
        "primero los paréntesis, luego los productos, luego las sumas. en {whole} el primer paso es {step}.",
    ),
}
_BROKEN = (  # ways to miss the think/answer form; {work} and {answer} are numbers and words, {said} a sentence
    " <think> {work} <answer> {answer} </answer>",
    " <think> {work} </think> {answer}",
    " {work} </think> <answer> {answer} </answer>",
    " <think> {work} </think> <answer> {answer}",
    " <think> {work} {said}",
    " <answer> {answer} </answer>",
)
_FULL = " <think> {work} </think> <answer> {answer} </answer>"
_EXPRESSION = re.compile(r"\(*-?\d+(?: [-+*] \(*-?\d+\)*)+")
_SHARES = (("facts", "solutions", "dialogue", "statements", "template"), ("tagged", "broken", "worked", "direct"))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Shares of the corpus: the first five of its documents, the next four of its template documents."""

    facts: float = 0.35
    solutions: float = 0.30
    dialogue: float = 0.05
    statements: float = 0.05
    template: float = 0.25
    tagged: float = 0.40  # in full think/answer form
    broken: float = 0.20  # a tag or a block missing
    worked: float = 0.25  # a worked solution, no tags
    direct: float = 0.15  # just an answer, no tags
    right: float = 0.60  # of solutions and dialogues are careful; the others careless
    template_right: float = 0.50  # of template documents
    left_to_right: float = 0.75  # of careless solutions; wrong where precedence makes a difference
    guess: float = 0.10  # of careless solutions: no work is shown; the rest slips in a step
    spanish: float = 0.25  # of documents with words
    switch: float = 0.10  # of worked solutions: the language changes half-way
    terse: float = 0.40  # of worked solutions: the steps without a word

    def __post_init__(self):
        for name, share in dataclasses.asdict(self).items():
            if not isinstance(share, (int, float)) or not 0 <= share <= 1:
                raise ValueError(f"mixture.{name} is {share!r}; expected a share in 0..1")
        for names in _SHARES:
            total = sum(getattr(self, name) for name in names)
            if abs(total - 1) > 1e-6:
                raise ValueError(f"mixture.{' + '.join(names)} is {total:g}; expected shares that sum to 1")
        if self.left_to_right + self.guess > 1:
            raise ValueError("mixture.left_to_right + guess is over 1; they are shares of the wrong solutions")


@dataclasses.dataclass(frozen=True)
class Solution:
    """A solution as someone wrote it: its steps, whatever they are worth, and the answer it comes to."""

    expression: str
    kind: str  # right | left_to_right | slip | guess
    steps: tuple[Step, ...]  # none for a guess
    states: tuple[str, ...]  # what is left after each step
    answer: int


def document(seed: int, index: int, mixture: Mixture, problems: Arithmetic) -> str:
    """The text of document `index`: a function of its arguments alone. Holds no test expression."""
    rng = np.random.default_rng([seed, index])
    kind = _pick(rng, mixture, _SHARES[0])
    while True:
        text = _WRITERS[kind](rng, mixture, problems)
        if not held_out(text):
            return text


def held_out(text: str) -> bool:
    """Whether a test expression stands in `text`."""
    return any(arithmetic.is_test(found) for found in _EXPRESSION.findall(text))


def solve_somehow(rng: np.random.Generator, expression: str, right_share: float, mixture: Mixture) -> Solution:
    """A right solution, or one by someone who guesses, works from left to right, or slips in a step.

    Working from left to right comes out right where precedence makes no difference; that is a right solution.
    """
    steps, states = tuple(arithmetic.solve(expression)), tuple(arithmetic.states(expression))
    answer = steps[-1].result
    if rng.random() < right_share:
        return Solution(expression, "right", steps, states, answer)
    mood = rng.random()
    if mood < mixture.guess:
        return Solution(expression, "guess", (), (), answer + _slip(rng))
    if mood >= mixture.guess + mixture.left_to_right:
        return _slipped(rng, expression, answer)
    careless = arithmetic.solve_left_to_right(expression)
    if careless[-1].result != answer:
        flat = [token for token in arithmetic.parse(expression) if token not in ("(", ")")]
        left = [arithmetic.render([step.result, *flat[2 * i + 3 :]]) for i, step in enumerate(careless)]
        return Solution(expression, "left_to_right", tuple(careless), tuple(left), careless[-1].result)
    return Solution(expression, "right", steps, states, answer)


def write_work(rng: np.random.Generator, solution: Solution, languages: tuple[str, str], terse: float) -> str:
    """The work of a solution, a share `terse` of them without words; it starts in one language, ends in the other."""
    if solution.kind == "guess":
        return _choose(rng, _GUESSES[languages[0]]).format(solution.answer)
    style, steps = rng.random(), [f"{step}." for step in solution.steps]
    if style < terse and languages[0] == languages[1]:
        return " ".join(steps)
    if style < 0.7:
        return f"{_rule(solution, languages[0])} {steps[0]}" + "".join(
            f" {_choose(rng, _CONNECTORS[languages[1]][1])} {step}" if languages[0] != languages[1] else f" {step}"
            for step in steps[1:]
        )
    first = _CONNECTORS[languages[0]][0]
    return f"{first} {steps[0]}" + "".join(
        f" {_choose(rng, _CONNECTORS[languages[1]][1])} {step}" for step in steps[1:]
    )


def _facts(rng: np.random.Generator, mixture: Mixture, problems: Arithmetic) -> str:
    """Facts, densely: steps as problems have them, or a row of a table, so that rare ones occur too."""
    count, facts = 6 + below(rng, 5), list[str]()
    row = _row(rng, problems) if rng.random() < 0.3 else None
    while len(facts) < count:
        steps = arithmetic.solve(arithmetic.draw(rng, problems)) if row is None else row
        facts += [str(step) for step in steps if not arithmetic.is_test(step.expression)]
        row = None
    separator = (". ", ". ", ", ", "\n")[below(rng, 4)]
    return separator.join(facts[:count]) + ("." if separator == ". " else "")


def _row(rng: np.random.Generator, problems: Arithmetic) -> list[Step]:
    """Consecutive lines of the table of one operation and right operand."""
    op = ("+", "-", "*")[below(rng, 3)]
    right = 1 + below(rng, problems.max_operand_pair)
    widest = problems.max_abs // right if op == "*" else problems.max_abs
    left = below(rng, widest + 1) if rng.random() < 0.8 else -below(rng, widest + 1)
    steps = [arithmetic.solve(f"{left + i} {op} {right}")[0] for i in range(8)]
    return [step for step in steps if max(abs(step.left), abs(step.result)) <= problems.max_abs]


def _solution(rng: np.random.Generator, mixture: Mixture, problems: Arithmetic) -> str:
    solution, languages = _solved(rng, mixture, problems, mixture.right)
    form = rng.random()
    if form < 0.25 and len(solution.steps) > 1:  # a wrong single step would look like a fact
        return " = ".join((solution.expression, *solution.states))
    work, said = write_work(rng, solution, languages, mixture.terse), _said(rng, solution, languages[1])
    if form < 0.4:
        return f"{solution.expression}: {work} {said}"
    return f"{_asked(rng, solution.expression, languages[0])} {work} {said}"


def _dialogue(rng: np.random.Generator, mixture: Mixture, problems: Arithmetic) -> str:
    solution, languages = _solved(rng, mixture, problems, mixture.right)
    asks, tells = (("Ana", "Ben"), ("Luis", "Eva"))[below(rng, 2)]
    question = _asked(rng, solution.expression, languages[0])
    if rng.random() < 0.5 or not solution.steps:
        return f"{asks}: {question} {tells}: {_said(rng, solution, languages[1])}"
    turns = [f"{asks}: {_asked(rng, step.expression, languages[1])} {tells}: {step.result}." for step in solution.steps]
    return f"{asks}: {question} {tells}: {_choose(rng, _ASIDES[languages[0]])} " + " ".join(turns)


def _statement(rng: np.random.Generator, mixture: Mixture, problems: Arithmetic) -> str:
    language = "es" if rng.random() < mixture.spanish else "en"
    solution = solve_somehow(rng, arithmetic.draw(rng, problems), 1.0, mixture)
    step = solution.steps[0]
    return _choose(rng, _STATEMENTS[language]).format(
        rule=_rule(solution, language),
        whole=solution.expression,
        state=solution.states[0],
        step=step,
        left=step.left,
        after=step.left + 1,
        right=step.right,
        after_right=step.right + 1,
        double=2 * step.left,
    )


def _template(rng: np.random.Generator, mixture: Mixture, problems: Arithmetic) -> str:
    """The R1-Zero prompt and what an untrained base makes of it."""
    solution, languages = _solved(rng, mixture, problems, mixture.template_right)
    prompt = templates.render("r1_zero", _choose(rng, QUESTIONS[languages[0]]).format(solution.expression))
    work, said = write_work(rng, solution, languages, mixture.terse), _said(rng, solution, languages[1])
    form = _pick(rng, mixture, _SHARES[1])
    if form == "worked":
        return f"{prompt} {work} {said}"
    if form == "direct":
        return f"{prompt} {said if rng.random() < 0.5 else f'{solution.answer}.'}"
    shape = _FULL if form == "tagged" else _choose(rng, _BROKEN)
    return prompt + shape.format(work=work, answer=solution.answer, said=said)


_WRITERS = {
    "facts": _facts,
    "solutions": _solution,
    "dialogue": _dialogue,
    "statements": _statement,
    "template": _template,
}


def _solved(
    rng: np.random.Generator, mixture: Mixture, problems: Arithmetic, right_share: float
) -> tuple[Solution, tuple[str, str]]:
    """A drawn problem's solution, and the languages it begins and ends in."""
    language = "es" if rng.random() < mixture.spanish else "en"
    other = "en" if language == "es" else "es"
    last = other if rng.random() < mixture.switch else language
    while True:
        solution = solve_somehow(rng, arithmetic.draw(rng, problems), right_share, mixture)
        if all(abs(step.result) <= problems.max_abs for step in solution.steps):
            return solution, (language, last)


def _slipped(rng: np.random.Generator, expression: str, answer: int) -> Solution:
    """A solution with one result wrong, carried on with faithfully."""
    tokens = arithmetic.unwrapped(arithmetic.parse(expression))
    at, steps, states = below(rng, len(arithmetic.solve(expression))), list[Step](), list[str]()
    while len(tokens) > 1:
        step, tokens = arithmetic.reduce_once(tokens, slip=_slip(rng) if len(steps) == at else 0)
        steps.append(step)
        states.append(arithmetic.render(tokens))
    if steps[-1].result == answer:  # a later product by zero forgave the slip
        return _slipped(rng, expression, answer)
    return Solution(expression, "slip", tuple(steps), tuple(states), steps[-1].result)


def _slip(rng: np.random.Generator) -> int:
    """How far a careless result is off."""
    return (1, -1, 2, -2, 10, -10)[below(rng, 6)]


def _rule(solution: Solution, language: str) -> str:
    if solution.kind == "left_to_right":
        return _RULES[language]["wrong"]
    mixed = "*" in solution.expression and any(op in solution.expression for op in ("+", " - "))
    return _RULES[language]["(" if "(" in solution.expression else "*" if mixed else ""]


def _said(rng: np.random.Generator, solution: Solution, language: str) -> str:
    return _choose(rng, _ANSWERS[language]).format(solution.answer)


def _asked(rng: np.random.Generator, expression: str, language: str) -> str:
    """A question in running text, where it ends with a mark."""
    question = _choose(rng, QUESTIONS[language]).format(expression)
    return question if question.endswith("?") else f"{question}."


def _choose(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[below(rng, len(options))]


def _pick(rng: np.random.Generator, mixture: Mixture, names: tuple[str, ...]) -> str:
    """One of the shares of the mixture that together make a whole."""
    rest = rng.random()
    for name in names[:-1]:
        rest -= getattr(mixture, name)
        if rest < 0:
            return name
    return names[-1]
