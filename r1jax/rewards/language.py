"""Language consistency: how many of the words of a chain of thought are of the language that was asked for.

A word's script tells Korean, Russian and Arabic. Where languages share a script each word has a likelihood under
each of them, from word frequencies (the wordfreq package, whose lists are in its wheel) and, for words that are on
no list, from letter trigrams of the same lists. Words that several languages have ("no", "die", "a") are settled by
the text around them: a hidden Markov chain over the words, whose shares of the languages and whose rate of
switching are fitted to each text by expectation–maximisation.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import wordfreq

from r1jax.rewards.format import END_THINK

LATIN = ("en", "es", "fr", "de")
LANGUAGES = (*LATIN, "zh", "ja", "ko", "ru", "ar")
STATES = (*LANGUAGES, "other")  # other: letters that are of none of the languages
SCRIPTS = {"hangul": "ko", "cyrillic": "ru", "arabic": "ar", "letters": "other"}  # those of one language each

# Chinese and Japanese are written without spaces. Of twenty parallel sentences (tests/language_sentences.py) the
# English ones have 264 words, the Chinese 354 characters, the Japanese 524: a translation counts as its original.
CHARACTERS_A_WORD = {"zh": 1.3, "ja": 2.0}

UNLISTED = 0.02  # share of running words that are taken to be on no list
ANY_LETTER = 1 / 60  # likelihood of a letter in no language; low, so that names are given to the languages
FLOOR = 1e-30  # likelihood of what a language cannot have
ITERATIONS = 6
PSEUDO_SWITCHES, PSEUDO_WORDS = 0.6, 4.0  # prior of the switching rate: switches seen, of so many words
PSEUDO_SHARE = 0.02  # words of every language that a text has before it is read; small: few texts have ten languages
PSEUDO_EXPECTED = 1.0  # of the language it should have, besides
MAX_WORD = 40  # letters of a word that are looked at
MAX_CACHED = 1 << 18  # words; about 65 MB
PIECE = 1024  # words that are fitted together; a longer text is cut
BLOCK = 1 << 18  # words of one block of pieces, padding included

_KANA = "\u3041-\u30ff\uff66-\uff9f"
_TOKEN = re.compile(
    "(?P<latin>[A-Za-z0-9_\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]+)"
    f"|(?P<cjk>[{_KANA}\u3005\u3006\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]{{1,64}})"
    "|(?P<hangul>[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+)"
    "|(?P<cyrillic>[\u0400-\u052f]+)"
    "|(?P<arabic>[\u0621-\u06d3\u06d5\u06ee\u06ef\u06fa-\u06fc\u0750-\u077f\u08a0-\u08c7]+)"
    "|(?P<letters>[\u0370-\u03ff\u0530-\u05ff\u0700-\u074f\u0780-\u07bf\u0900-\u10ff\u1200-\u1cff\u1f00-\u1fff]{2,})"
)
_HAS_KANA = re.compile(f"[{_KANA}]")
_MARKS = re.compile("[\u0610-\u061a\u064b-\u065f\u0670\u0640\u06d6-\u06ed]+")  # Arabic vowel signs and lengthening
_ACCENTS = re.compile("([A-Za-z])([\u0300-\u0304\u0308\u030a\u030c\u0327])")  # a letter and its accent, apart
# Operators and units are of every language. Single letters are left out too: they are variables, or articles.
_MATHEMATICS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan log ln lg exp sqrt mod gcd lcm max min lim det rad dx dy dt "
    "km cm mm kg mg ml kmh mph".split()
)
# Opening and closing of what is not prose. One that is not closed is text, so that it hides nothing.
_SPANS = (
    ("```", "```"),
    ("~~~", "~~~"),
    ("$$", "$$"),
    ("\\[", "\\]"),
    ("\\(", "\\)"),
    ("\\begin{", "\\end"),
    ("[asy]", "[/asy]"),
)
_END = re.compile(r"\\end\{[A-Za-z]{1,20}\*?\}")
_INLINE = re.compile(
    r"`[^`\n]{1,200}`"
    r"|\$(?!\s)[^$\n]{1,200}(?<!\s)\$(?!\d)"
    r"|\\[A-Za-z]{1,30}"
    r"|</?[A-Za-z][^<>\n]{0,100}>"
    r"|https?://\S{1,500}"
)


def consistency(
    prompts: Sequence[str], completions: Sequence[str], language: Sequence[str], **columns: Any
) -> list[float]:
    """The share of the words of each chain of thought that are of the language asked for, 0.0 to 1.0.

    Numbers, symbols, code, LaTeX, tags and single letters are no words. A thought that has something but no words,
    such as one of equations alone, is consistent with every language and gets 1.0; an empty one gets 0.0.

    Shares are rounded to hundredths. Finer differences are doubts about single words; where a group's samples differ in
    nothing else, GRPO would divide them by their own tiny deviation and learn from them at full strength.

    Args:
      prompts: B prompts; not used.
      completions: B completions, untrusted. The thought is what stands before `</think>`; all, if that is missing.
      language: B codes of `LANGUAGES`.
      **columns: the examples' other fields; not used.

    Raises:
      ValueError: a language is not known here.

    Source: DeepSeek-R1, section 2.3.2, 'the proportion of target language words in the CoT'.
    """
    check_consistency(language)
    thoughts = [thought(completion) for completion in completions]
    rewards = []
    for text, code, share in zip(thoughts, language, shares(thoughts, language), strict=True):
        rewards.append(round(share[code], 2) if share is not None else float(bool(text.strip())))
    return rewards


def check_consistency(language: Sequence[str]) -> list[str]:
    """Before the run: raises ValueError where a language is not known here."""
    for code in set(language):
        if code not in LANGUAGES:
            raise ValueError(
                f"language consistency got the language {code!r}; expected one of {', '.join(LANGUAGES)}; "
                "correct the column 'language' of the task's records"
            )
    return []


def thought(completion: str) -> str:
    """The chain of thought: what stands before the last `</think>`; everything, where there is none."""
    return completion[: completion.rfind(END_THINK)] if END_THINK in completion else completion


def shares(texts: Sequence[str], expected: Sequence[str]) -> list[dict[str, float] | None]:
    """For each text the share of its words in each of `STATES`, summing to 1; None where it has no words.

    Args:
      texts: B texts, untrusted.
      expected: B languages; words that nothing in the text tells apart ("total", alone) are given to these.
    """
    wanted_BK = np.array(expected)[:, None] == np.array(STATES)
    tokenised = [_tokens(text) for text in texts]
    pieces = [(i, tokens[at : at + PIECE]) for i, tokens in enumerate(tokenised) for at in range(0, len(tokens), PIECE)]
    pieces.sort(key=lambda piece: len(piece[1]))
    words_BK = np.zeros((len(texts), len(STATES)))
    while pieces:
        longest = len(pieces[-1][1])
        block = [pieces.pop() for _ in range(min(len(pieces), BLOCK // longest))]
        rows = [i for i, _ in block]
        likelihood_BLK, weight_BL = _arrays([tokens for _, tokens in block], longest)
        np.add.at(words_BK, rows, _fit(likelihood_BLK, weight_BL, PSEUDO_SHARE + PSEUDO_EXPECTED * wanted_BK[rows]))
    return [
        dict(zip(STATES, (words_K / words_K.sum()).tolist(), strict=True)) if tokens else None
        for tokens, words_K in zip(tokenised, words_BK, strict=True)
    ]


def _tokens(text: str) -> list[str]:
    """The words of a text, as far as their language needs them; of Chinese and Japanese, runs of characters."""
    text = _END.sub(r"\\end", text)
    for opening, closing in _SPANS:
        text = _without(text, opening, closing)
    text = _MARKS.sub("", _INLINE.sub(" ", text))
    if not text.isascii():
        text = _ACCENTS.sub(_joined, text)
    tokens = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match.lastgroup == "latin":
            token = token[:MAX_WORD].lower()
            if len(token) == 1 or not token.isalpha() or token in _MATHEMATICS:
                continue
        elif match.lastgroup != "cjk":
            token = token[:2]  # its script says all
        tokens.append(token)
    return tokens


def _without(text: str, opening: str, closing: str) -> str:
    """The text less its spans from opening to closing, in linear time."""
    kept, at = [], 0
    while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start + len(opening))) >= 0:
        kept += [text[at:start], " "]
        at = end + len(closing)
    return "".join([*kept, text[at:]])


def _joined(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", match[0])


def _arrays(tokenised: list[list[str]], longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Likelihoods of the tokens under each state, and their weights in words; 1 and 0 where there is none."""
    likelihood_XK, weight_X, index = _table().look_up(token for tokens in tokenised for token in tokens)
    index_BL = np.zeros((len(tokenised), longest), np.int64)
    index_BL[np.arange(longest) < np.array([len(tokens) for tokens in tokenised])[:, None]] = index
    return likelihood_XK[index_BL], weight_X[index_BL]


def _fit(likelihood_BLK: np.ndarray, weight_BL: np.ndarray, pseudo_BK: np.ndarray) -> np.ndarray:
    """Words in each state of each text [B, K], by expectation–maximisation over a chain that stays or draws anew.

    From a word to the next the state stays with probability `stay_B`, else it is drawn from `share_BK`.
    """
    B, L, K = likelihood_BLK.shape
    share_BK, stay_B1 = pseudo_BK / pseudo_BK.sum(1, keepdims=True), np.full((B, 1), 1 - PSEUDO_SWITCHES)
    words_B1 = weight_BL.sum(1, keepdims=True)
    pairs_B1 = (weight_BL[:, 1:] > 0).sum(1, keepdims=True)
    ahead_LBK, behind_LBK = np.empty((L, B, K)), np.ones((L, B, K))
    e_LBK = np.ascontiguousarray(likelihood_BLK.transpose(1, 0, 2))
    for _ in range(ITERATIONS):
        stays_B1 = np.zeros((B, 1))
        for t in range(L):
            prior_BK = share_BK if t == 0 else stay_B1 * ahead_LBK[t - 1] + (1 - stay_B1) * share_BK
            here_BK = prior_BK * e_LBK[t]
            ahead_LBK[t] = here_BK / here_BK.sum(1, keepdims=True)
        for t in range(L - 1, 0, -1):
            seen_BK = e_LBK[t] * behind_LBK[t]
            drawn_B1 = (share_BK * seen_BK).sum(1, keepdims=True)
            behind_BK = stay_B1 * seen_BK + (1 - stay_B1) * drawn_B1
            stayed_B1 = stay_B1 * (ahead_LBK[t - 1] * seen_BK).sum(1, keepdims=True)
            total_B1 = stayed_B1 + (1 - stay_B1) * drawn_B1
            stays_B1 += (weight_BL[:, t, None] > 0) * stayed_B1 / total_B1
            behind_LBK[t - 1] = behind_BK / behind_BK.sum(1, keepdims=True)
        posterior_LBK = ahead_LBK * behind_LBK
        posterior_LBK *= (weight_BL.T / posterior_LBK.sum(2))[:, :, None]
        found_BK = posterior_LBK.sum(0)
        share_BK = (found_BK + pseudo_BK) / (words_B1 + pseudo_BK.sum(1, keepdims=True))
        stay_B1 = (stays_B1 + PSEUDO_WORDS - PSEUDO_SWITCHES) / (pairs_B1 + PSEUDO_WORDS)
    return found_BK


class _Table:
    """Tokens seen so far, with their likelihoods and weights. Row 0 is padding."""

    def __init__(self) -> None:
        self._lists = {code: wordfreq.get_frequency_dict(code, "small") for code in (*LATIN, "zh", "ja")}
        self._letters = {code: _trigrams(self._lists[code]) for code in LATIN}
        self._characters = {code: _characters(self._lists[code]) for code in ("zh", "ja")}
        self._lock = threading.Lock()
        self._forget()

    def look_up(self, tokens: Iterable[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Likelihoods [X, K] and weights [X] of X rows, and the row of each token."""
        with self._lock:
            if len(self._row) > MAX_CACHED:
                self._forget()
            index = np.fromiter((self._row.get(token) or self._add(token) for token in tokens), np.int64)
            size = len(self._row) + 1
            return self._likelihood_XK[:size], self._weight_X[:size], index

    def _forget(self) -> None:
        self._row: dict[str, int] = {}
        self._likelihood_XK, self._weight_X = np.ones((1024, len(STATES))), np.zeros(1024)

    def _add(self, token: str) -> int:
        row = self._row[token] = len(self._row) + 1
        if row == len(self._weight_X):
            self._likelihood_XK = np.concatenate([self._likelihood_XK, np.ones_like(self._likelihood_XK)])
            self._weight_X = np.concatenate([self._weight_X, np.zeros_like(self._weight_X)])
        logs, self._weight_X[row] = self._describe(token)
        values_K = np.array([logs.get(state, -math.inf) for state in STATES])
        self._likelihood_XK[row] = np.maximum(np.exp(values_K - values_K.max()), FLOOR)
        return row

    def _describe(self, token: str) -> tuple[dict[str, float], float]:
        """Log-likelihoods by state, as far as not impossible, and the number of words that the token counts as."""
        match = _TOKEN.match(token)
        script = match.lastgroup if match else None
        assert script is not None, f"{token!r} was found by the same expression"
        if script == "cjk":
            code = "ja" if _HAS_KANA.search(token) else "zh"
            logs = {k: sum(v.get(char, v[""]) for char in token) for k, v in self._characters.items()}
            return logs, len(token) / CHARACTERS_A_WORD[code]
        if script != "latin":
            return {SCRIPTS[script]: 0.0}, 1.0
        logs = {"other": (len(token) + 1) * math.log(ANY_LETTER)}
        for code in LATIN:
            listed = self._lists[code].get(token, 0.0)
            spelt = math.exp(_spelling(token, *self._letters[code]))
            logs[code] = math.log((1 - UNLISTED) * listed + UNLISTED * spelt)
        return logs, 1.0


@functools.cache
def _table() -> _Table:
    return _Table()


def _trigrams(words: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Weights of letter trigrams, and of the bigrams they begin with; a word weighs the root of its frequency."""
    whole: dict[str, float] = {}
    begun: dict[str, float] = {}
    for word, frequency in words.items():
        if word.isalpha():
            for three in _threes(word):
                whole[three] = whole.get(three, 0.0) + math.sqrt(frequency)
                begun[three[:2]] = begun.get(three[:2], 0.0) + math.sqrt(frequency)
    return whole, begun


def _spelling(word: str, whole: Mapping[str, float], begun: Mapping[str, float]) -> float:
    """Log-probability of a word's letters, each given the two before it."""
    rare = 1e-5
    return sum(
        math.log((whole.get(three, 0.0) + rare) / (begun.get(three[:2], 0.0) + 40 * rare)) for three in _threes(word)
    )


def _threes(word: str) -> list[str]:
    padded = f"^{word}$"
    return [padded[i : i + 3] for i in range(len(padded) - 2)]


def _characters(words: Mapping[str, float]) -> dict[str, float]:
    """Log-frequencies of the characters of a language; that of one it does not have stands under ''."""
    counts: dict[str, float] = {"": 1e-6}
    for word, frequency in words.items():
        for char in word:
            counts[char] = counts.get(char, 1e-6) + frequency
    total = sum(counts.values())
    return {char: math.log(count / total) for char, count in counts.items()}
