"""Corpora of documents by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from r1jax.data import builders
from r1jax.data.records import Source

BUILDER = {"arithmetic_web": "arithmetic_corpus"}  # corpus name -> its builder


def load(name: str, *, data_dir: str, kwargs: Mapping[str, Any]) -> Source:
    """The documents of a corpus: [i] -> {"text": str}.

    Args:
      name: a key of `BUILDER`.
      data_dir: folder where prepared records are kept.
      kwargs: parameters of the corpus, `builders.ArithmeticCorpus`.

    Raises:
      ValueError: the name or a parameter is not known, or its value is bad.
    """
    if name not in BUILDER:
        near = difflib.get_close_matches(name, list(BUILDER), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known corpora: {', '.join(BUILDER)}"
        raise ValueError(f"data.source names the corpus {name!r}, which is not known; {hint}")
    builder = builders.prepare(BUILDER[name], data_dir=data_dir, source_dir="", kwargs=kwargs, where=name)
    return builders.read(builder, "train")
