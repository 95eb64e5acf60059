#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""soak - many clients at once that behave well, badly, and leave in the middle; afterwards nothing has leaked.

soak.py [--seconds 20] [--clients 32] [--seed N] [--model PATH]. A first quarter warms up; then file
descriptors and memory of daemon and worker are noted, the rest of the time runs, and they must be what they
were. No 5xx, no broken stream, every page idle, fsck clean, no name left."""
import collections
import json
import os
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, begin, note, process_fd_count, process_rss_bytes, sanitizer, wait_until)  # noqa: E402

WORDS = ("the of and to in a is that for it as was with be by on not he his but at are this have from or had an "
         "they which one you were all her she there would their we him been has when who will no more if out so "
         "up said what its about than into them can only other time new some could these two may first").split()
SHARED = " ".join(WORDS)
RSS_GROWTH_BYTES_MAX = 24 << 20
IDLE_S_MAX = 60
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


class Client:
    """One client: draws what to do next from its own generator."""

    def __init__(self, d, seed, counts, failures):
        self.d, self.random, self.counts, self.failures = d, random.Random(seed), counts, failures
        self.actions = ([self.stream] * 6 + [self.whole] * 3 + [self.cancel] * 4 + [self.half_head] * 2 +
                        [self.half_body] * 2 + [self.reset] * 2 + [self.refused, self.look, self.silent])

    def run(self, end):
        while time.monotonic() < end and not self.failures:
            action = self.random.choice(self.actions)
            try:
                action()
                self.counts[action.__name__] += 1
            except Exception as failure:  # recorded, and the soak ends
                self.failures.append(f"{action.__name__}: {type(failure).__name__}: {failure}")

    # -- what a body may hold --

    def text(self):
        words = [self.random.choice(WORDS) for _ in range(int(self.random.paretovariate(0.8)) % 300 + 1)]
        text = (SHARED + " " if self.random.random() < 0.4 else "") + " ".join(words)
        return text[:self.d.text_bytes_max]

    def body(self):
        r = self.random
        body = {"max_tokens": r.choice((1, 2, 5, 16, 16, 40, 80)), "temperature": r.choice((0, 0, 0.7, 1, 2)),
                "ignore_eos": r.random() < 0.5}
        maybe = {"seed": r.randrange(1 << 40), "top_p": r.uniform(0.1, 1), "top_k": r.randrange(1, 100),
                 "min_p": r.uniform(0, 0.3), "n": r.choice((1, 2, 3)), "stop": r.sample(WORDS, 2),
                 "frequency_penalty": r.uniform(-2, 2), "presence_penalty": r.uniform(-2, 2),
                 "repetition_penalty": r.uniform(0.8, 1.5), "return_token_ids": True,
                 "cache_salt": str(r.randrange(3)), "logit_bias": {str(r.randrange(500)): r.uniform(-100, 100)}}
        for name, value in maybe.items():
            if r.random() < 0.15:
                body[name] = value
        if self.d.has_chat and r.random() < 0.5:
            body["messages"] = [{"role": "user", "content": self.text()}]
            return CHAT, body
        body["prompt"] = self.text() if r.random() < 0.8 else [self.text(), self.text()]
        if r.random() < 0.2:
            body["logprobs"] = r.randrange(6)
        return COMPLETION, body

    # -- actions --

    def stream(self):
        path, body = self.body()
        finished = sum(choice["finish_reason"] is not None
                       for event in self.d.stream(path, body) for choice in event["choices"])
        prompts = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        assert finished == prompts * body.get("n", 1), f"{finished} choices finished"

    def whole(self):
        path, body = self.body()
        if path == COMPLETION and self.random.random() < 0.3:
            body["prompt_logprobs"] = self.random.randrange(3)
        answer = self.d.post(path, body)
        for choice in answer["choices"]:
            assert choice["finish_reason"] in ("stop", "length"), choice
        assert answer["usage"]["completion_tokens"] <= body["max_tokens"] * len(answer["choices"]), "too many"

    def cancel(self):
        path, body = self.body()
        events = self.d.stream(path, {**body, "max_tokens": 200, "ignore_eos": True})
        for _ in range(self.random.randrange(0, 12)):
            next(events, None)
        events.close()

    def send(self, data, reset=False):
        with socket.create_connection(self.d.address, 30) as sock:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(data)

    def request_bytes(self):
        path, body = self.body()
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        return head, data

    def half_head(self):
        head, _data = self.request_bytes()
        self.send(head[:self.random.randrange(len(head))])

    def half_body(self):
        head, data = self.request_bytes()
        self.send(head + data[:self.random.randrange(len(data))], self.random.random() < 0.5)

    def reset(self):
        """The whole request, then a reset: before, while or after it is tokenized."""
        head, data = self.request_bytes()
        self.send(head + data, reset=True)

    def refused(self):
        path, body = self.body()
        self.d.post(path, {**body, "temperature": -1}, 400)
        self.d.post(path, json.dumps(body).encode()[:-1], 400)

    def look(self):
        self.d.get("/v1/models")
        self.d.metrics()

    def silent(self):
        with socket.create_connection(self.d.address, 30):
            pass


def run_clients(d, options, seconds, round_number):
    counts, failures = collections.Counter(), []
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=Client(d, f"{options.seed}.{round_number}.{i}", counts, failures).run,
                                args=(end,), daemon=True) for i in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + (1500 if sanitizer() else 300))
        assert not thread.is_alive(), "a client hangs"
    assert not failures, "\n".join(failures[:5])
    return counts


def idle_state(d):
    """Once nothing runs: (file descriptors, resident bytes) of daemon and worker."""
    def is_idle():
        metrics = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        return all(d.metric("vllm:" + name) == 0 for name in metrics)

    wait_until(is_idle, "nothing runs and no page is held", IDLE_S_MAX, 0.05)
    pids = (d.pid, d.worker_pid())
    wait_until(lambda: fd_counts_settled(d), "connections are closed", IDLE_S_MAX, 0.05)
    return [process_fd_count(pid) for pid in pids], [process_rss_bytes(pid) for pid in pids]


def fd_counts_settled(d):
    """The daemon's sockets: only its listeners are left."""
    folder = f"/proc/{d.pid}/fd"
    sockets = 0
    for name in os.listdir(folder):
        try:
            sockets += os.readlink(os.path.join(folder, name)).startswith("socket:")
        except FileNotFoundError:  # it was the listing's own, or has just been closed
            pass
    return sockets <= 1


def check_soak(d, options):
    counts = run_clients(d, options, options.seconds / 4, 0)
    fds, rss = idle_state(d)
    worker = d.worker_pid()
    counts += run_clients(d, options, options.seconds * 3 / 4, 1)
    fds_after, rss_after = idle_state(d)
    note(f"{sum(counts.values())} actions: " + ", ".join(f"{n} {c}" for c, n in sorted(counts.items())))
    note(f"descriptors {fds} -> {fds_after}, resident MiB {[r >> 20 for r in rss]} -> "
         f"{[r >> 20 for r in rss_after]}")
    assert d.worker_pid() == worker, "the worker was restarted"
    assert fds_after == fds, f"file descriptors {fds} -> {fds_after}"
    if sanitizer():
        return  # its quarantine grows as it likes
    for name, before, after in zip(("daemon", "worker"), rss, rss_after):
        assert after - before <= RSS_GROWTH_BYTES_MAX, f"{name}: {before >> 20} -> {after >> 20} MiB"


def check_fsck(d):
    assert d.fsck() == [], d.fsck()


def check_log(d):
    bad = [line for line in d.lines if " error: " in line or " warn: " in line]
    assert not bad, "\n".join(bad[:10])


def main():
    options, tap = begin(__doc__, "soak", seconds=20.0, clients=32, model="")
    with Daemon(options.model) as d:
        d.has_chat = d.call("POST", CHAT, {"messages": [{"role": "user", "content": "Hi"}],
                                           "max_tokens": 1}).status == 200
        model_len = d.get("/v1/models")["data"][0]["max_model_len"]
        d.text_bytes_max = model_len - 250  # a token has a byte at least; room for a template and an output
        if sanitizer():
            d.text_bytes_max //= 8  # its prompts are computed at a tenth of the speed
        tap.case(f"{options.clients} clients for {options.seconds:g} s leak nothing", check_soak, d, options)
        tap.case("fsck finds no fault", check_fsck, d)
        tap.case("the log has no warning", check_log, d)
        tap.case("a clean stop leaves nothing", d.stop)
        d.stop = lambda: None
    tap.done()


if __name__ == "__main__":
    main()
