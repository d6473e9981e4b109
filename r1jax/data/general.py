"""Procedural requests that want no mathematics: greetings, who are you, facts, translation, writing, advice.

Each has a reference reply. Greetings, questions about the model and facts are answered at once; the other kinds are
answered after a short thought in a set share of the records, so that a policy learns from them both to think briefly
and not to ponder over 'hi there'. Nothing depends on more than (seed, split, index).

A twentieth of the requests, by the words that make them up, occurs in the test split alone. Of facts it is the way of
asking that is held out: the fact itself stands in the train split, for nobody can know what was never read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable

from r1jax.data import replies
from r1jax.data.lexicon import ADJECTIVES, CAPITALS, LEGS, NAMES, NOUNS, OPPOSITES, ORDER

TEST_SHARE = 20  # one in so many
FREE_TEXT = ("greeting", "self", "writing", "advice")  # kinds whose good replies no rule can tell
GREETINGS = {
    "en": (("Hi{}", "Hello{}", "Hey{}", "Hi there{}", "Good morning{}", "Good evening{}", "Hello there{}"),
           ("", "!", ".", ". How are you?", ". Nice to meet you.", ". It is a lovely day."),
           ("Hello{}! How can I help you?", "Hi{}! What can I do for you?", "Hello{}! Nice to hear from you.")),
    "es": (("Hola{}", "Buenos días{}", "Buenas tardes{}", "Buenas noches{}"),
           ("", "!", ".", ". ¿Cómo estás?", ". Mucho gusto."),
           ("¡Hola{}! ¿En qué puedo ayudarte?", "¡Hola{}! ¿Qué puedo hacer por ti?")),
}  # fmt: skip
SELF = {
    "name": (("Who are you?", "What is your name?", "What should I call you?", "Tell me who you are."),
             "I am r1jax, a small language model."),
    "kind": (("What are you?", "Are you a person?", "Am I talking to a human?", "Are you a machine?"),
             "I am a language model, not a person."),
    "skills": (("What can you do?", "What are you good at?", "How can you help me?", "What is your use?"),
               "I can solve small problems step by step, translate a little, and answer short questions."),
    "limits": (("What can you not do?", "Do you make mistakes?", "Are you always right?", "Can I trust you?"),
               "I am small and I make mistakes, so please check what I say."),
    "making": (("How were you made?", "How did you learn?", "Who taught you?", "How were you trained?"),
               "I read text first, and then learnt to reason from rewards."),
}  # fmt: skip
SELF_OPENINGS = ("", "Hello! ", "Hi. ", "Please tell me: ", "One question: ", "Sorry to ask. ", "Before we start: ",
                 "I am curious. ")  # fmt: skip
TRANSLATE = {
    "es": ("Translate into Spanish: {}", "How do you say this in Spanish: {}", "In Spanish, please: {}"),
    "en": ("Traduce al inglés: {}", "¿Cómo se dice en inglés: {}?", "En inglés, por favor: {}"),
}
ANSWER = {"en": "The answer is {}.", "es": "La respuesta es {}."}
NOTES = {  # what a note is for -> the sentence that it wants
    "to say thanks for the": "thank you for the {}.",
    "as an invitation to see the": "please come and see the {}.",
    "to say sorry about the": "I am sorry about the {}.",
    "as a reminder of the": "please do not forget the {}.",
    "to offer the": "the {} are for sale.",
}
WRITE = ("Write {name} a note {purpose} {topic}.", "Please write a line to {name} {purpose} {topic}.",
         "I need a short note for {name} {purpose} {topic}.")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class GeneralTask:
    """Parameters of the general requests."""

    train_size: int = 5000
    test_size: int = 300
    seed: int = 0
    thinking: float = 0.5  # share of the translations, notes and advice whose completion thinks first

    def __post_init__(self):
        if not 0 <= self.thinking <= 1:
            raise ValueError(f"data.source['general'].kwargs.thinking is {self.thinking}; expected a share in 0..1")


@dataclasses.dataclass(frozen=True)
class Request:
    """A drawn request. `answer` is what a grader looks for; of free text it is the whole reply."""

    words: str  # what it is made of; decides its split
    question: str
    answer: str
    reply: str
    thought: str  # a short one; empty where none is wanted
    language: str


class General:
    """A `Source` of one kind of request, or of all in turn."""

    def __init__(self, task: GeneralTask, split: str, kind: str):
        self._task, self._split = task, split
        self._kinds = (kind,) if kind else tuple(KINDS)

    def __len__(self) -> int:
        return self._task.test_size if self._split == "test" else self._task.train_size

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        kind = self._kinds[index % len(self._kinds)]
        draw = random.Random(f"{self._task.seed}/{self._split}/{kind}/{index}")
        request = KINDS[kind](draw, self._split == "test")
        thinks = bool(request.thought) and draw.random() < self._task.thinking
        thought = f" <think> {request.thought} </think>" if thinks else ""
        return {
            "question": request.question,
            "answer": request.answer,
            "task": f"general_{kind}",
            "language": request.language,
            "template": "r1",
            "completion": f"{thought} {request.reply}",
        }


def is_held_out(words: str) -> bool:
    digest = hashlib.blake2b(words.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % TEST_SHARE == 0


def _of_split(make: Callable[[random.Random], Request]) -> Callable[[random.Random, bool], Request]:
    """Draws until a request is of the split."""

    def drawn(draw: random.Random, test: bool) -> Request:
        while True:
            request = make(draw)
            if is_held_out(request.words) == test:
                return request

    return drawn


def _greeting(draw: random.Random) -> Request:
    language = draw.choice(("en", "en", "es"))
    openings, endings, answers = GREETINGS[language]
    name = draw.choice(("", *NAMES))
    question = draw.choice(openings).format(f", {name}" if name else "") + draw.choice(endings)
    reply = draw.choice(answers).format(f", {name}" if draw.random() < 0.5 and name else "")
    return Request(question, question, reply, reply, "", language)


def _self(draw: random.Random) -> Request:
    questions, reply = SELF[draw.choice(tuple(SELF))]
    question = draw.choice(SELF_OPENINGS) + draw.choice(questions)
    return Request(question, question, reply, reply, "", "en")


def _fact(draw: random.Random) -> Request:
    table, asks = draw.choice(FACTS)
    key = draw.choice(tuple(table))
    ask = draw.choice(asks)
    return Request(f"{ask} {key}", ask.format(key), table[key], ANSWER["en"].format(table[key]), "", "en")


def _translation(draw: random.Random) -> Request:
    noun, adjective = draw.choice(tuple(NOUNS)), draw.choice(tuple(ADJECTIVES))
    word, feminine = NOUNS[noun]
    ending = ADJECTIVES[adjective] if not feminine else _feminine(ADJECTIVES[adjective])
    english, spanish = f"the {adjective} {noun}", f"{'la' if feminine else 'el'} {word} {ending}"
    target = draw.choice(("es", "en"))
    ask = draw.choice(TRANSLATE[target])
    if target == "es":
        thought = f"{noun} is {word}. {adjective} is {ending}. the noun comes first."
        question, answer, language = ask.format(english), spanish, "en"
    else:
        thought = f"{word} es {noun}. {ending} es {adjective}. el adjetivo va primero."
        question, answer, language = ask.format(spanish), english, "es"
    return Request(f"{noun} {adjective}", question, answer, ANSWER[language].format(answer), thought, language)


def _feminine(adjective: str) -> str:
    return adjective[:-1] + "a" if adjective.endswith("o") else adjective


def _writing(draw: random.Random) -> Request:
    purpose, name, topic = draw.choice(tuple(NOTES)), draw.choice(NAMES), draw.choice(replies.TOPICS)
    question = draw.choice(WRITE).format(purpose=purpose, name=name, topic=topic)
    reply = f"Dear {name}, {NOTES[purpose].format(topic)} Yours."
    thought = f"a note to {name}, {purpose} {topic}."
    return Request(f"{purpose} {name} {topic}", question, reply, reply, thought, "en")


def _advice(draw: random.Random, test: bool) -> Request:
    """A question of `replies`, so that its reward models know a good reply; its held-out set is their own."""
    asked = replies.ask(draw, test=test)
    reply = replies.reply(draw, asked, "")
    return Request(asked.text, asked.text, reply, reply, f"They ask about {asked.topic}.", "en")


FACTS = (
    (CAPITALS, ("What is the capital of {}?", "Which city is the capital of {}?", "Name the capital of {}.",
                "{} has which capital?")),
    (LEGS, ("How many legs has {}?", "Count the legs of {}.", "What is the number of legs of {}?")),
    (ORDER, ("What comes after {}?", "Which one follows {}?", "Name what comes next after {}.")),
    (OPPOSITES, ("What is the opposite of {}?", "Which word means the opposite of {}?", "Give the opposite of {}.")),
)  # fmt: skip
KINDS: dict[str, Callable[[random.Random, bool], Request]] = {
    "greeting": _of_split(_greeting),
    "self": _of_split(_self),
    "facts": _of_split(_fact),
    "translation": _of_split(_translation),
    "writing": _of_split(_writing),
    "advice": _advice,
}
