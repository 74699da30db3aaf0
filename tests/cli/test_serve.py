# SPDX-FileCopyrightText: 2026 The vecinfer_hf authors
# SPDX-License-Identifier: Apache-2.0
"""`vecinfer serve` with SmolLM2, asked over HTTP by OpenAI's own client."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers.utils.import_utils import is_serve_available

from vecinfer_hf.integration.continuous_batching import why_unsupported


pytestmark = [
    pytest.mark.skipif(why_unsupported() is not None, reason=f"{why_unsupported()}"),
    pytest.mark.skipif(not is_serve_available(), reason="needs the extra serve: pip install '.[serve]'"),
]
CODEBOOK = "SmolLM2-135M-Instruct/2bit"
RULES = "You answer questions about a shop. " + " ".join(
    f"Rule {number}: product {number} costs {3 * number} euros and is kept on shelf {number % 5}."
    for number in range(9)
)
"""More than a page of tokens that every conversation begins with."""


class Server:
    """A `vecinfer serve` process.

    Args:
        model: directory of the model.
        log: file for what it prints.
        options: more words of its line.
    """

    def __init__(self, model, log, *options):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        self.model, self.url, self.log = str(model), f"http://localhost:{port}", log
        line = (sys.executable, "-m", "vecinfer_hf", "serve", self.model, "--codebook", CODEBOOK, "--port", str(port))
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [*line, "--device", "cpu", "--dtype", "float32", *options],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=environment,
        )

    def health(self):
        """What `/health` answers."""
        with urllib.request.urlopen(f"{self.url}/health", timeout=10) as answer:
            return json.load(answer)

    def wait(self, condition=lambda told: True, seconds=240):
        """Wait until `/health` answers something that `condition` accepts, and return it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                told = self.health()
                if condition(told):
                    return told
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"no such answer in {seconds} s: {self.log.read_text()}")

    def client(self):
        """An OpenAI client."""
        import openai

        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def stream(self, messages, tokens):
        """Yield the pieces of a greedy answer."""
        events = self.client().chat.completions.create(
            model=self.model, messages=messages, stream=True, max_tokens=tokens, temperature=0
        )
        for event in events:
            if event.choices and event.choices[0].delta.content:
                yield event.choices[0].delta.content

    def stop(self):
        """End the process as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def server(smollm2_path, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log"
    started = Server(smollm2_path, log, "--cb-num-blocks", "200", "--cb-max-batch-tokens", "512")
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def conversation(server, number, tokens):
    """Both answers of a chat of two turns."""
    messages = [
        {"role": "system", "content": RULES},
        {"role": "user", "content": f"What does product {number % 9} cost?"},
    ]
    answers = []
    for question in (f"And where is product {(number + 3) % 9}?", None):
        answers.append("".join(server.stream(messages, tokens)))
        messages += [{"role": "assistant", "content": answers[-1]}, {"role": "user", "content": question}]
    return answers


def check_many(server, clients, tokens):
    alone = [conversation(server, number, tokens) for number in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        together = list(pool.map(lambda number: conversation(server, number, tokens), range(clients)))
    assert together == alone
    assert all(answer for answers in alone for answer in answers)
    told = server.wait(lambda state: state["cache"]["requests"] == 0)["cache"]
    # Full pages stay for texts that begin likewise.
    assert 0 < told["pages"]["kept"] < told["pages"]["total"]


def test_many_clients_get_what_each_gets_alone(server):
    told = server.health()
    assert told["status"] == "ok"
    assert told["cache"]["kind"] == "vecinfer"
    assert told["cache"]["batching"] == "continuous"
    check_many(server, clients=3, tokens=8)
    told = server.health()["cache"]
    assert told["pages"]["total"] == 200
    assert told["page_tokens"] == 64
    log = server.log.read_text()
    assert "continuous batching with codes" in log
    assert "pages of codes: 200 total" in log


@pytest.mark.slow
def test_sixteen_clients_get_what_each_gets_alone(server):
    check_many(server, clients=16, tokens=24)


def test_who_leaves_in_the_middle_disturbs_nobody(server):
    messages = [{"role": "user", "content": "Count from one to fifty."}]
    expected = "".join(server.stream(messages, 12))
    events = server.client().chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": "Tell a long story."}],
        stream=True,
        max_tokens=2000,
        temperature=0,
    )
    heard = []
    other = threading.Thread(target=lambda: heard.append("".join(server.stream(messages, 12))))
    for count, _ in enumerate(events):
        if count == 2:
            other.start()
        if count == 4:
            break
    events.close()
    other.join()
    assert heard == [expected]
    server.wait(lambda state: state["cache"]["requests"] == 0, seconds=30)


def test_a_request_that_does_not_fit_is_told_why(server):
    import openai

    "".join(server.stream([{"role": "user", "content": "Hi."}], 1))  # the cache is made with the first request
    for stream in (True, False):
        with pytest.raises(openai.BadRequestError, match=r"does not fit: the cache has 200 pages of 64 tokens"):
            server.client().chat.completions.create(
                model=server.model,
                messages=[{"role": "user", "content": "Hi."}],
                max_tokens=100_000,
                stream=stream,
            )
    assert server.health()["status"] == "ok"
