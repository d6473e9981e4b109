"""What a kind of tokenizer brings: ids of text, the bytes of ids, the ids that begin and end a text."""

from __future__ import annotations

import abc
import os

SYMBOLS = ("<think>", "</think>", "<answer>", "</answer>")
UNREADABLE = "\ufffd".encode()


class Vocabulary(abc.ABC):
    """Implemented by `SentencePieceModel` (trained by r1jax) and `HfVocabulary` (imported); `Tokenizer` uses it."""

    pieces: list[bytes]  # what each id adds to the UTF-8 text; it may end within a character
    pad_id: int
    bos_id: int | None  # None: texts begin without a mark
    eos_id: int  # ends a text that is learnt
    start_ids: list[int]  # what every text begins with
    end_ids: list[int]  # any of which ends a sampled text
    symbols: dict[str, int]  # those of SYMBOLS that are one token
    control: frozenset[str]  # texts that stand for control tokens in a prompt
    chat_template: str | None  # the checkpoint's own, in Jinja

    @abc.abstractmethod
    def encode(self, text: str, *, control: bool) -> list[int]:
        """Ids of Unicode text, without start or end. `control`: text of control tokens becomes those tokens."""

    @abc.abstractmethod
    def save(self, directory: str | os.PathLike) -> None:
        """Writes the files that `load` of the same class reads, each whole or not at all."""
