#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""kill_worker - kill -9 of the worker at random points under greedy streams: nothing is lost, no token changes.

kill_worker.py [--kills 20] [--streams 8] [--tokens 120] [--seed N]. Eight streams run undisturbed once; then
again and again while their worker is killed: after a random number of tokens and a random moment more, or
while it is only starting. Every stream must end complete and byte-equal to the undisturbed one."""
import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, Streamed, begin, in_parallel, note, process_is_alive, wait_until)  # noqa: E402

PROMPTS = ["The capital of France is", "def fibonacci(n):", "Once upon a time, in a small village by the sea,",
           "1, 2, 3, 5, 8, 13,", "Water boils at 100 degrees Celsius because", "Dear Sir or Madam,",
           "The most important rule of sailing is " * 6, "A list of all rivers of Europe: " * 12]
RESTART_S_MAX = 60


class Watch:
    """Counts the tokens of all streams and when they came, so that a kill can be placed between them."""

    def __init__(self):
        self.changed = threading.Condition()
        self.count, self.last = 0, time.monotonic()

    def token(self):
        with self.changed:
            self.count += 1
            self.last = time.monotonic()
            self.changed.notify_all()

    def wait_count(self, count, running):
        """Until so many tokens came in all; False when the streams ended before."""
        with self.changed:
            while self.count < count and running():
                self.changed.wait(0.1)
            return self.count >= count


def body_of(prompt, tokens):
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}


def run_streams(d, options, watch):
    """All streams at once; -> [Streamed], and the gaps between chunks by way of `gaps`."""
    def run(i):
        events = []
        last = time.monotonic()
        for event in d.stream("/v1/completions", body_of(PROMPTS[i % len(PROMPTS)], options.tokens)):
            now = time.monotonic()
            event["gap_s"], last = now - last, now
            events.append(event)
            watch.token()
        return Streamed(events)

    return in_parallel(run, range(options.streams))


class Killer:
    """Kills the worker at random points while streams run. kills: seconds from kill to the next token."""

    def __init__(self, d, options):
        self.d, self.random = d, random.Random(options.seed)
        self.wanted, self.kills, self.early = options.kills, [], 0

    def kill_once(self, watch, running):
        after = watch.count + self.random.randrange(1, 80)
        if not watch.wait_count(after, running):
            return
        with watch.changed:
            watch.changed.wait(self.random.random() * 0.01)  # a point within a step
        pid = wait_until(self.d.worker_pid, "a worker", RESTART_S_MAX)
        start = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not process_is_alive(pid), "the killed worker is gone")
        again = wait_until(lambda: self.d.worker_pid() or not running(), "the next worker", RESTART_S_MAX)
        if again is not True and self.random.random() < 0.2:  # once more, while it loads
            time.sleep(self.random.random() * 0.05)
            os.kill(again, signal.SIGKILL)
            self.early += 1
        if watch.wait_count(watch.count + 1, running):
            self.kills.append(time.monotonic() - start)

    def run(self, options):
        """One round of streams under kills. -> [Streamed]"""
        watch, result = Watch(), []
        thread = threading.Thread(target=lambda: result.append(attempt(run_streams, self.d, options, watch)))
        thread.start()
        while thread.is_alive():
            if len(self.kills) + self.early < self.wanted:
                self.kill_once(watch, thread.is_alive)
            thread.join(0.05)
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]


def attempt(function, *arguments):
    try:
        return function(*arguments)
    except BaseException as failure:  # noqa: B902, raised by the main thread
        return failure


def check_kills(d, options):
    calm = run_streams(d, options, Watch())
    for stream in calm:
        assert len(stream.ids) == options.tokens, f"undisturbed: {len(stream.ids)} tokens"
    again = run_streams(d, options, Watch())  # warm cache
    assert [s.ids for s in again] == [s.ids for s in calm], "undisturbed runs differ"
    killer, rounds, gaps = Killer(d, options), 0, []
    start = time.monotonic()
    while len(killer.kills) + killer.early < options.kills:
        for i, (stream, wanted) in enumerate(zip(killer.run(options), calm)):
            assert stream.finish == "length", f"stream {i} ended with {stream.finish}"
            assert stream.ids == wanted.ids, f"stream {i}, round {rounds}: {stream.ids} for {wanted.ids}"
            assert stream.text == wanted.text, f"stream {i}, round {rounds}: {stream.text!r}"
            gaps += [event["gap_s"] for event in stream.events]
        rounds += 1
    kills, gaps = sorted(killer.kills), sorted(gaps)
    note(f"{len(kills)} kills and {killer.early} more of a starting worker in {rounds} rounds, "
         f"{time.monotonic() - start:.1f} s, seed {options.seed}")
    note(f"kill to next token: median {kills[len(kills) // 2]:.3f} s, worst {kills[-1]:.3f} s; gaps between "
         f"chunks: median {gaps[len(gaps) // 2] * 1e3:.1f} ms, p99 {gaps[len(gaps) * 99 // 100] * 1e3:.1f} ms, "
         f"worst {gaps[-1]:.3f} s")


def check_idle(d):
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert d.metric("vllm:" + name) == 0, name
    assert d.fsck() == [], d.fsck()


def main():
    options, tap = begin(__doc__, "streams survive kills of the worker", kills=20, streams=8, tokens=120)
    with Daemon(options.model) as d:
        if tap.case("streams survive kills of the worker", check_kills, d, options):
            tap.case("every page is idle and fsck finds no fault", check_idle, d)
        tap.case("a clean stop leaves nothing", d.stop)
        d.stop = lambda: None
    tap.done()


if __name__ == "__main__":
    main()
