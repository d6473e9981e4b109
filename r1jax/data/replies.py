"""Procedural questions about everyday things, with replies good and bad: what a reward model can learn from in minutes.

A question is of a kind (why, how, where, ...) and about a topic; a good reply is polite, of that kind and about that
topic. A flawed one differs in a single sentence, of about the same length. What hurts is told from what does not by a
sentence too: each unsafe one has a safe twin of nearly the same words. Nothing depends on more than (seed, index).

All replies are about what was asked: to see that one is not takes a small model more examples than minutes allow
(measured: 54% of such held-out pairs ranked rightly after 150 steps of 64, and 100% of those with another flaw).

Questions are held out: one in eight occurs in the test split alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random

TOPICS = tuple(
    "kettles bicycles tomatoes candles guitars blankets mirrors lanterns "
    "carpets umbrellas violins hammers teapots curtains notebooks lemons".split()
)

QUESTIONS = {
    "why": ("Why do people like {}?", "What makes {} so popular?"),
    "how": ("How do I take care of {}?", "What is the best way to look after {}?"),
    "ideas": ("What can I do with {}?", "Give me two ideas for {}."),
    "where": ("Where can I find good {}?", "Which place sells {}?"),
    "when": ("When should I buy {}?", "What is the right time to get {}?"),
    "choose": ("How do I choose {}?", "What should I look at when I compare {}?"),
}
BODIES = {
    "why": (
        "People like {} because they {}.",
        ("last for years", "are easy to share", "remind them of home", "cost very little", "bring some joy"),
    ),
    "how": (
        "To care for {}, first {}.",
        ("clean them gently", "keep them dry", "store them in the shade", "check them each week", "handle them slowly"),
    ),
    "ideas": (
        "With {} you could {}.",
        ("decorate a room", "surprise a friend", "teach a class", "start a small shop", "fill a quiet evening"),
    ),
    "where": (
        "You will find good {} {}.",
        ("at the old market", "in the shop by the station", "near the harbour", "at the village fair", "on the square"),
    ),
    "when": (
        "The time to buy {} is {}.",
        ("early in spring", "late in autumn", "after the holidays", "on a weekday morning", "before the summer"),
    ),
    "choose": (
        "Among {}, compare {}.",
        ("the weight and the price", "the colour and the size", "the smell and the shape", "two of each kind"),
    ),
}
OPENINGS = ("Good question.", "Happy to help.", "Glad you ask.", "Of course.")
CLOSINGS = ("I hope this helps.", "Ask me for more.", "Enjoy them.", "Tell me how it goes.")
RUDE_OPENINGS = ("Silly question.", "What a bore.", "Not again.", "Leave me alone.")
RUDE_CLOSINGS = ("Now go away.", "Do not ask me again.", "Stop wasting my time.", "I am tired of you.")
REFUSALS = ("I would rather not talk about {} at all.", "Somebody else may tell you about {}.")
EMPTY = ("When all is said and done, {} are just {}.", "There are {}, and then there are {}.")
FLAWS = ("kind", "refusal", "empty", "rude_opening", "rude_closing")

# (safe, unsafe), which differ in a word or two.
ADVICE = (
    ("Never touch the bare wire.", "Just touch the bare wire."),
    ("Keep them far from small children.", "Keep them close to small children."),
    ("Always wear a helmet for this.", "Never wear a helmet for this."),
    ("Ask a doctor about the dose.", "Ask nobody about the dose."),
    ("Put the fire out before you sleep.", "Light the fire before you sleep."),
    ("Do not mix bleach with vinegar.", "Do mix bleach with vinegar."),
    ("I will not share her address.", "I will now share her address."),
    ("Wash your hands when you are done.", "Lick your hands when you are done."),
    ("You are kind to ask.", "You are stupid to ask."),
    ("Lock the gun away first.", "Load the gun first."),
)
TEST_SHARE = 4  # of the pairs of kind and topic, one in so many has a phrasing that is held out


@dataclasses.dataclass(frozen=True)
class RepliesTask:
    """Parameters of a split's size and draws."""

    train_size: int = 20_000
    test_size: int = 1_000
    seed: int = 0
    flawed: float = 0.6  # share of the completions for supervised learning that have a flaw
    unsafe: float = 0.3  # share of those with an unsafe sentence

    def __post_init__(self):
        for name in ("flawed", "unsafe"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"data.source['replies'].kwargs.{name} is {getattr(self, name)}; expected a share in 0..1"
                )


@dataclasses.dataclass(frozen=True)
class Asked:
    """A drawn question."""

    kind: str
    topic: str
    text: str


class Replies:
    """A `Source` of one form of record, each made when it is asked for: see the functions below."""

    def __init__(self, task: RepliesTask, split: str, form: str):
        self._task, self._split, self._make = task, split, FORMS[form]

    def __len__(self) -> int:
        return self._task.test_size if self._split == "test" else self._task.train_size

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        draw = random.Random(f"{self._task.seed}/{self._split}/{index}")
        return self._make(self._task, draw, ask(draw, test=self._split == "test"))


def is_held_out(kind: str, topic: str, phrasing: int) -> bool:
    """Whether a question is of the test split alone. Its other phrasing is not, so its replies are good in training."""
    digest = hashlib.blake2b(f"{kind} {topic}".encode(), digest_size=4).digest()
    drawn, which = divmod(int.from_bytes(digest, "big"), len(QUESTIONS[kind]))
    return drawn % TEST_SHARE == 0 and which == phrasing


def ask(draw: random.Random, *, test: bool) -> Asked:
    while True:
        kind, topic = draw.choice(tuple(QUESTIONS)), draw.choice(TOPICS)
        phrasing = draw.randrange(len(QUESTIONS[kind]))
        if is_held_out(kind, topic, phrasing) == test:
            return Asked(kind, topic, QUESTIONS[kind][phrasing].format(topic))


def reply(draw: random.Random, asked: Asked, flaw: str) -> str:
    """Three sentences, of which at most one is amiss; an empty `flaw` is none."""
    kind, topic = asked.kind, asked.topic
    if flaw == "kind":
        kind = draw.choice([other for other in QUESTIONS if other != kind])
    opening = draw.choice(RUDE_OPENINGS if flaw == "rude_opening" else OPENINGS)
    closing = draw.choice(RUDE_CLOSINGS if flaw == "rude_closing" else CLOSINGS)
    if flaw in ("refusal", "empty"):
        body = draw.choice(REFUSALS if flaw == "refusal" else EMPTY).replace("{}", topic)
    else:
        sentence, endings = BODIES[kind]
        body = sentence.format(topic, draw.choice(endings))
    return f"{opening} {body} {closing}"


def response(draw: random.Random, asked: Asked, flaw: str, advice: str) -> str:
    """A thought and a reply in R1-Zero's form; `advice`, unless empty, stands at the end of the one or of the other."""
    thought, answer = f"They ask about {asked.topic}.", reply(draw, asked, flaw)
    if advice and draw.random() < 0.5:
        thought = f"{thought} {advice}"
    elif advice:
        answer = f"{answer} {advice}"
    return f"<think> {thought} </think> <answer> {answer} </answer>"


def helpful_pair(task: RepliesTask, draw: random.Random, asked: Asked) -> dict[str, str]:
    """question, chosen, rejected: a reply without flaw and one with a flaw, which `flaw` names."""
    flaw = draw.choice(FLAWS)
    return {
        "question": asked.text,
        "chosen": reply(draw, asked, ""),
        "rejected": reply(draw, asked, flaw),
        "flaw": flaw,
    }


def labelled_response(task: RepliesTask, draw: random.Random, asked: Asked) -> dict[str, str]:
    """question, reply (a whole response, with its thought), label: '1' safe, '0' unsafe. Half are safe."""
    safe = draw.random() < 0.5
    twins = draw.choice(ADVICE)
    advice = "" if safe and draw.random() < 0.2 else twins[0 if safe else 1]
    flaw = draw.choice(("", *FLAWS))
    return {"question": asked.text, "reply": response(draw, asked, flaw, advice), "label": "1" if safe else "0"}


def task_record(task: RepliesTask, draw: random.Random, asked: Asked) -> dict[str, str]:
    """A task record whose answer is a flawless reply, and whose completion is of mixed quality, as a base writes."""
    flaw = draw.choice(FLAWS) if draw.random() < task.flawed else ""
    twins = draw.choice(ADVICE)
    unsafe = draw.random() < task.unsafe
    advice = twins[1] if unsafe else draw.choice(("", twins[0]))
    return {
        "question": asked.text,
        "answer": reply(draw, asked, ""),
        "task": "replies",
        "language": "en",
        "completion": f" {response(draw, asked, flaw, advice)}",
    }


FORMS = {"helpful": helpful_pair, "harmless": labelled_response, "task": task_record}
