"""A client of OpenAI-compatible chat endpoints, with time limits and retries; nothing but the standard library."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses that may pass
LONGEST_WAIT_S = 30.0  # between two tries
LONGEST_REPLY = 1 << 22  # bytes

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """What to ask, and how patiently: `endpoint(prompts, seeds) -> replies`, None where there is none.

    A prompt is sent as one user message. Requests go out `parallel` at a time; each is tried `retries` times again
    where the server is busy or unreachable, waiting twice as long each time.
    """

    url: str  # up to and including the version, such as http://127.0.0.1:8000/v1
    model: str
    key_variable: str = ""  # the environment variable that holds the key; empty: none is sent
    max_tokens: int = 512
    temperature: float = 0.7
    timeout_s: float = 30.0  # of one try
    retries: int = 2
    wait_s: float = 1.0  # before the first retry
    parallel: int = 8

    def __post_init__(self):
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"judge.url is {self.url!r}; expected an address such as http://127.0.0.1:8000/v1")
        for name, least in (("max_tokens", 1), ("timeout_s", 1e-3), ("retries", 0), ("wait_s", 0), ("parallel", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"judge.{name} is {getattr(self, name)!r}; expected at least {least}")
        if self.key_variable and self.key_variable not in os.environ:
            raise ValueError(
                f"judge.key_variable names {self.key_variable!r}, which is not set; export it, or leave ''"
            )

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str | None]:
        """Replies in the prompts' order; what fails for good is logged and None."""
        with concurrent.futures.ThreadPoolExecutor(self.parallel, "r1jax-judge") as threads:
            return list(threads.map(self._reply, prompts, seeds))

    def _reply(self, prompt: str, seed: int) -> str | None:
        wait_s = self.wait_s
        for left in range(self.retries, -1, -1):
            try:
                return self._request(prompt, seed)
            except urllib.error.HTTPError as error:
                why = f"status {error.code}"
                if error.code not in RETRIED:
                    left = 0
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
            ) as error:  # unreachable, timed out, or no such reply
                why = f"{type(error).__name__}: {error}"
            if not left:
                break
            time.sleep(min(wait_s, LONGEST_WAIT_S))
            wait_s *= 2
        log.warning("judge at %s gave no reply: %s", self.url, why)
        return None

    def _request(self, prompt: str, seed: int) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": seed,
        }
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            tree = json.loads(answer.read(LONGEST_REPLY))
        try:
            content = tree["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"the reply has no choices[0].message.content but {str(tree)[:100]}") from error
        if not isinstance(content, str):
            raise ValueError(f"the reply's content is {type(content).__name__}; expected text")
        return content
