#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Order between requests as a client sees it: priorities, their ageing, deadlines, and a pool that is far too small.

test_order.py [PART OF A NAME]. KVASIR_ORDER_BENCH=1 runs the small pool on the real model and compares its throughput
with the same work sent in waves that fit (some minutes); without it a tiny model must only give the same tokens."""
import http.client
import os
import sys
import threading
import time

from kvasir_test import (Daemon, StreamError, Streamed, cases_of, expect, in_parallel, model_path, need, note,
                         require, run_cases, vectors_path)

COMPLETION = "/v1/completions"
BENCH = os.environ.get("KVASIR_ORDER_BENCH") == "1"


def tiny_path():
    return vectors_path("tiny", "llama_untied.gguf")


def prompt(i, length):
    return [3 + (i * 7 + k * (i + 3)) % 90 for k in range(length)]


def body(i, length, outputs, **fields):
    return {"prompt": prompt(i, length), "max_tokens": outputs, "ignore_eos": True, "return_token_ids": True,
            "temperature": 0, **fields}


def ids(d, request):
    return Streamed(d.stream(COMPLETION, request)).ids


class Flood:
    """Clients that ask again as soon as they are answered, until the end of the block."""

    def __init__(self, d, count, make):
        self.d, self.make, self.over, self.served, self.longest_s = d, make, False, 0, 0
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(count)]

    def run(self, i):
        while not self.over:
            answer = self.d.call("POST", COMPLETION, self.make(i))
            self.served += answer.status == 200
            self.longest_s = max(self.longest_s, answer.seconds)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        while self.d.metric("vllm:num_requests_waiting") < len(self.threads) // 2:
            time.sleep(0.005)  # no event tells of it
        return self

    def __exit__(self, *_why):
        self.over = True
        for thread in self.threads:
            thread.join()


def test_a_high_priority_does_not_wait_for_a_full_pool(model):
    with Daemon(model, "--max-num-seqs", 4, "--max-model-len", 512) as d:
        alone = min(d.call("POST", COMPLETION, body(9, 40, 1, cache_salt=str(k))).seconds for k in range(5))
        long = in_background(d, [body(i, 40, 470, priority=5, cache_salt="low") for i in range(8)])
        while d.metric("vllm:num_requests_running") < 4:
            time.sleep(0.005)
        before = d.metric("vllm:num_preemptions_total")
        high = d.call("POST", COMPLETION, body(9, 40, 1, cache_salt="high"))
        still = d.metric("vllm:num_requests_running") + d.metric("vllm:num_requests_waiting")
        expect(high.status, 200)
        require(still >= 5, f"the low ones were nearly over: {still}")
        require(d.metric("vllm:num_preemptions_total") > before, "nobody made way")
        results = long()
        note(f"{high.seconds * 1e3:.1f} ms with all places taken, {alone * 1e3:.1f} ms alone")
        calm = ids(d, body(2, 40, 470, cache_salt="calm"))
        expect(results[2], calm, "a preempted request")


def in_background(d, requests):
    """Starts streams. -> a function that waits for their tokens."""
    results = [None] * len(requests)

    def run(i):
        try:
            results[i] = ids(d, requests[i])
        except (OSError, http.client.HTTPException, AssertionError):
            pass  # None: the daemon may have ended

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(requests))]
    for thread in threads:
        thread.start()

    def wait():
        for thread in threads:
            thread.join()
        return results
    return wait


def test_the_lowest_priority_is_served(model):
    with Daemon(model, "--max-num-seqs", 2, "--priority-ageing", 1, "--max-model-len", 512) as d:
        with Flood(d, 4, lambda i: body(i, 20, 400, n=16, priority=0)) as flood:
            start = time.monotonic()
            answer = d.call("POST", COMPLETION, body(50, 20, 5, priority=3))
            took, served = time.monotonic() - start, flood.served
        expect(answer.status, 200)
        note(f"priority 3 under a flood of priority 0: {took:.1f} s, {served} others served before it, "
             f"which took at most {flood.longest_s:.1f} s")
        require(took > 2.5, "it did not wait for its ageing")
        require(took < 3 + 2 * flood.longest_s, "its ageing did not help it")


def test_a_deadline_ends_what_waits_and_what_runs(model):
    with Daemon(model, "--max-num-seqs", 1) as d:
        long = in_background(d, [body(i, 20, 490, priority=-1) for i in range(40)])
        while not d.metric("vllm:num_requests_running"):
            time.sleep(0.005)
        answer = d.call("POST", COMPLETION, body(2, 20, 5, timeout=0.05))
        expect((answer.status, answer.headers["Retry-After"]), (408, "1"), answer.text[:200])
        expect(answer.json["error"]["type"], "timeout_error")
        answer = d.call("POST", COMPLETION, body(2, 20, 5), headers={"X-Request-Timeout": "0.05"})
        expect(answer.status, 408)
        expect(d.call("POST", COMPLETION, body(2, 20, 5), headers={"X-Request-Timeout": "soon"}).status, 400)
        del long  # it ends with the daemon, or by itself
        try:
            list(d.stream(COMPLETION, body(3, 20, 490, n=64, timeout=0.2, priority=-2)))
            raise AssertionError("it had all its time")
        except StreamError as failure:
            require("408" in str(failure), failure)
        require(d.metric("kvasir:requests_expired_total") >= 3, "not counted")
        expect(d.fsck(), [])


def test_the_servers_bound_holds_for_all(model):
    with Daemon(model, "--request-timeout", 1) as d:
        start = time.monotonic()
        answers = in_parallel(lambda i: d.call("POST", COMPLETION, body(i, 20, 490, n=32, **more(i))).status, range(12))
        require(0.9 < time.monotonic() - start < 30, "not after a second")
        require(408 in answers and set(answers) <= {200, 408}, answers)
        expect(d.call("POST", COMPLETION, body(7, 20, 3)).status, 200)


def more(i):
    return {"timeout": 3600} if i else {}


# ---- a pool a tenth of what is wanted ----

def pages_bytes(model, pages, *flags):
    """Bytes for so many pages, from what a daemon says of its own."""
    with Daemon(model, *flags) as d:
        found = d.wait_line(r"pages of (\d+) KiB \((\d+) MiB\)")
        return pages * int(found.group(1)) * 1024


def test_a_pool_a_tenth_of_what_is_wanted(model):
    count, length, outputs = 64, 64, 96  # 10 pages each
    pages = count * 10 // 10
    flags = ["--max-num-seqs", count, "--max-model-len", 512 if BENCH else 256]
    model = model_path() if BENCH else model
    requests = [body(i, length, outputs, cache_salt=str(i)) for i in range(count)]
    size = pages_bytes(model, pages, *flags)
    with Daemon(model, *flags, "--kv-cache-memory-bytes", 10 * size) as d:
        calm = in_parallel(lambda request: ids(d, request), requests)
        expect(d.metric("vllm:num_preemptions_total"), 0)
    rates = {"at once": [], "in waves": []}
    for _round in range(2 if BENCH else 1):
        for how, wave in (("at once", count), ("in waves", pages // 10)):
            with Daemon(model, *flags, "--kv-cache-memory-bytes", size) as d:
                start, got = time.monotonic(), []
                for first in range(0, count, wave):
                    got += in_parallel(lambda request: ids(d, request), requests[first:first + wave])
                rates[how].append(count * outputs / (time.monotonic() - start))
                expect(got, calm, how)
                note(f"{how}: {rates[how][-1]:.1f} tokens/s, {d.metric('vllm:num_preemptions_total'):.0f} preempted, "
                     f"{d.metric('kvasir:kv_pages'):.0f} pages")
                expect(d.fsck(), [])
    share = max(rates["at once"]) / max(rates["in waves"])
    note(f"at once {share:.2f} of in waves")
    require(not BENCH or share >= 0.85, "slower than by hand")


def test_what_can_never_fit_is_refused(model):
    flags = ["--max-model-len", 256]
    with Daemon(model, *flags, "--kv-cache-memory-bytes", pages_bytes(model, 17, *flags)) as d:
        expect(d.call("POST", COMPLETION, body(1, 250, 50)).status, 400)
        expect(d.call("POST", COMPLETION, body(1, 200, 50)).status, 200)


def main():
    cases = cases_of(globals())
    model = need(cases, tiny_path)
    run_cases(cases, model).done()


if __name__ == "__main__":
    sys.exit(main())
