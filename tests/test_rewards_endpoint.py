"""The endpoint client against a local server: order, retries, time limits, and what cannot be mended."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from r1jax.rewards.endpoint import Endpoint
from r1jax.rewards.judge import agreement


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextlib.contextmanager
def serving(respond):
    """A server whose `respond(request, body, number)` sends the answer; yields (url, bodies, headers)."""
    bodies, headers, lock = [], [], threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                bodies.append(body)
                headers.append((self.path, dict(self.headers)))
                number = len(bodies)
            with contextlib.suppress(ConnectionError):  # the client may have given up
                respond(self, body, number)

        def log_message(self, *args):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies, headers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(request, status, payload):
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def content(text):
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def echo(request, body, number):
    send(request, 200, content(body["messages"][0]["content"].upper()))


def endpoint(url, **changes):
    fields = {"model": "m", "timeout_s": 5.0, "wait_s": 0.01, "retries": 2, "parallel": 4}
    return Endpoint(url=url, **(fields | changes))


def test_replies_keep_the_order_and_requests_say_all(monkeypatch):
    monkeypatch.setenv("R1JAX_TEST_KEY", "not-a-real-key")
    with serving(echo) as (url, bodies, headers):
        ask = endpoint(url + "/", key_variable="R1JAX_TEST_KEY", max_tokens=7, temperature=0.3)
        assert ask([f"p{n}" for n in range(20)], range(20)) == [f"P{n}" for n in range(20)]
    assert {path for path, _ in headers} == {"/v1/chat/completions"}
    assert all(header["Authorization"] == "Bearer not-a-real-key" for _, header in headers)
    body = next(b for b in bodies if b["seed"] == 3)
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "p3"}],
        "max_tokens": 7,
        "temperature": 0.3,
        "seed": 3,
    }


def test_a_busy_server_is_asked_again_and_a_refusal_is_final():
    def busy_twice(request, body, number):
        send(request, 503 if number <= 2 else 200, content("done"))

    with serving(busy_twice) as (url, bodies, _):
        assert endpoint(url)(["p"], [0]) == ["done"] and len(bodies) == 3
    with serving(lambda request, body, number: send(request, 429, {})) as (url, bodies, _):
        assert endpoint(url, retries=1)(["p"], [0]) == [None] and len(bodies) == 2
    with serving(lambda request, body, number: send(request, 401, {})) as (url, bodies, _):
        assert endpoint(url)(["p"], [0]) == [None] and len(bodies) == 1


def test_a_server_that_hangs_is_left_and_others_are_answered():
    def hang_on_one(request, body, number):
        if body["messages"][0]["content"] == "slow":
            time.sleep(0.6)
        echo(request, body, number)

    with serving(hang_on_one) as (url, _, _):
        began = time.monotonic()
        got = endpoint(url, timeout_s=0.2, retries=1)(["a", "slow", "b"], [0, 1, 2])
        assert got == ["A", None, "B"] and time.monotonic() - began < 3.0


@pytest.mark.parametrize(
    "payload", [b"not json", b"[]", {"choices": []}, {"choices": [{"message": {"content": None}}]}, {"error": "x"}]
)
def test_what_is_no_reply_is_none(payload):
    with serving(lambda request, body, number: send(request, 200, payload)) as (url, bodies, _):
        assert endpoint(url, retries=1)(["p"], [0]) == [None] and len(bodies) == 2


def test_nobody_there_is_none():
    with serving(echo) as (url, _, _):
        pass
    assert endpoint(url, retries=1)(["p"], [0]) == [None]


def test_as_a_judge():
    """Over the wire, with failures counted."""

    def respond(request, body, number):
        prompt = body["messages"][0]["content"]
        answer = "verdict: yes" if "| forty-two" in prompt else "no idea"
        send(request, 500 if "| broken" in prompt else 200, content(answer))

    reported = {}
    with serving(respond) as (url, _, _):
        got = agreement(
            ["forty-two", "dunno", "broken"], ["q"] * 3, ["42"] * 3, {"url": url, "model": "m"},
            endpoint(url, retries=0), votes=2, report=reported.__setitem__,
        )  # fmt: skip
    assert got == [1.0, None, None] and reported == {"asked": 6, "unparsed": 2, "failed": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "file:///etc/passwd"}, "judge.url is 'file"),
        ({"url": "http://x", "timeout_s": 0.0}, "judge.timeout_s is 0.0"),
        ({"url": "http://x", "parallel": 0}, "judge.parallel is 0"),
        ({"url": "http://x", "key_variable": "R1JAX_NO_SUCH_KEY"}, "'R1JAX_NO_SUCH_KEY', which is not set"),
    ],
)
def test_bad_endpoints_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Endpoint(model="m", **changes)
