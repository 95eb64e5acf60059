#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""groups - two workers on one cache: what one computes both find, and the death of one is no disturbance.

groups.py [--kills 6] [--streams 8] [--tokens 64] [--seed N]

The yardstick is one worker alone. Two give the same tokens; prompts that the first computed are found by the second,
which alone can answer while the first is stopped in the middle of a step; a kill -9 of either at random points loses no
token of any stream; a daemon that is killed leaves a pool that the next adopts, whether that has two workers or
one, and no worker of the dead one is left. A tiny model is also split over two ranks by each of the two: killed like
a worker, adopted by one group of two ranks."""
import os
import random
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kvasir_test import (Daemon, Skip, Streamed, begin, in_parallel, model_path, new_instance, note,  # noqa: E402
                         process_children, process_is_alive, program, require, shm_names, temporary_directory,
                         vectors_path, wait_until)
from ranks import environment, mpi_is_built  # noqa: E402

COMPLETION = "/v1/completions"
FLAGS = ("--max-model-len", 1024, "--max-num-seqs", 16, "--kv-cache-memory-bytes", "256M")
GROUPS = 2
TEXT = "In the beginning there was a town at the mouth of a river, and in the town there lived a maker of maps. "


def prompt_of(i):
    return f"Tale number {i}. " + TEXT * (1 + i * 5 % 7)


def body_of(i, tokens):
    return {"prompt": prompt_of(i), "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "return_token_ids": True}


def workers(d):
    return process_children(d.pid)


def group_metric(d, name, group):
    found = [value for key, value in d.metrics().items() if key.startswith(name + "{") and f'engine="{group}"' in key]
    require(len(found) == 1, f"{name} of group {group}: {found}")
    return found[0]


class Run:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.instance = new_instance()
        self.calm, self.d = None, None

    def start(self, groups):
        self.d = Daemon(model_path(), *FLAGS, "--data-parallel-size", groups, instance=self.instance)
        wait_until(lambda: len(workers(self.d)) == groups, f"{groups} workers")
        for group in range(groups):
            name = f"worker of group {group}" if groups > 1 else "worker"
            self.d.wait_line(name + r" \d+: ")

    def streams(self, counter=None):
        """All streams at once. -> [Streamed], with the time between its events in gap_s"""
        def run(i):
            events, last = [], time.monotonic()
            for event in self.d.stream(COMPLETION, body_of(i, self.options.tokens)):
                now = time.monotonic()
                event["gap_s"], last = now - last, now
                events.append(event)
                if counter:
                    counter.release()
            return Streamed(events)
        return in_parallel(run, range(self.options.streams))

    def check_streams(self, got, what):
        for i, (stream, wanted) in enumerate(zip(got, self.calm)):
            require(stream.finish == "length", f"{what}: stream {i} ended with {stream.finish}")
            require(stream.ids == wanted.ids, f"{what}: stream {i}: {stream.ids} for {wanted.ids}")

    def run_alone(self):
        self.start(1)
        self.calm = self.streams()
        self.d.stop()

    def check_equal(self):
        self.start(GROUPS)
        start = time.monotonic()
        got = self.streams()
        self.check_streams(got, "two workers, cold")
        steps = [group_metric(self.d, "kvasir:engine_steps_total", group) for group in range(GROUPS)]
        note(f"{self.options.streams} streams in {time.monotonic() - start:.1f} s; steps of the groups: {steps}")
        require(min(steps) > 0.1 * max(steps), f"one group did it all: {steps}")
        self.check_streams(self.streams(), "two workers, warm")

    def check_hits(self):
        """What the first computes while the second is not there, the second finds while the first is stopped."""
        first, second = (int(self.d.wait_line(rf"worker of group {group} (\d+): ")[1]) for group in range(GROUPS))
        count, prompts = 8, []
        os.kill(second, signal.SIGSTOP)
        # Whatever the second is given waits for it; it has nothing now, and gets nothing while the first is idle.
        before = group_metric(self.d, "kvasir:engine_steps_total", 1)
        for i in range(count):
            prompts.append({**body_of(i, 17), "prompt": f"Chapter {i}. " + TEXT * 16})  # its last page becomes full
        cold = [self.d.post(COMPLETION, body) for body in prompts]
        require(group_metric(self.d, "kvasir:engine_steps_total", 1) == before, "the second had steps")
        os.kill(second, signal.SIGCONT)
        begun, result = threading.Event(), []

        def hold():  # a stream of the first, which keeps it in a step once it is stopped
            events = []
            for event in self.d.stream(COMPLETION, body_of(0, self.options.tokens)):
                events.append(event)
                begun.set()
            result.append(Streamed(events))

        thread = threading.Thread(target=hold)
        thread.start()
        begun.wait(60)
        os.kill(first, signal.SIGSTOP)
        before = group_metric(self.d, "kvasir:engine_steps_total", 0)
        warm = [self.d.post(COMPLETION, body) for body in prompts]
        after = group_metric(self.d, "kvasir:engine_steps_total", 0)
        os.kill(first, signal.SIGCONT)
        thread.join(60)
        require(result and result[0].ids == self.calm[0].ids, "the stream of the stopped worker")
        require(after - before <= 1, f"the first had {after - before} steps while it was stopped")
        hits = sum(a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in warm)
        tokens = sum(a["usage"]["prompt_tokens"] for a in warm)
        for a, b in zip(cold, warm):
            require(a["choices"][0]["token_ids"] == b["choices"][0]["token_ids"], "other tokens")
        note(f"the second found {hits} of {tokens} prompt tokens that the first had computed: {hits / tokens:.2%}")
        require(hits >= 0.99 * tokens, "the second does not find what the first computed")

    def kill_one(self, counter, running):
        for _ in range(self.random.randrange(1, self.options.streams * self.options.tokens * 2 // 3)):
            counter.acquire(timeout=60)
        time.sleep(self.random.random() * 0.01)  # a point within a step
        if not running():
            return False
        pid = self.random.choice(wait_until(lambda: workers(self.d), "a worker"))
        os.kill(pid, signal.SIGKILL)
        status = self.d.call("GET", "/health").status
        require(status == 200, f"/health says {status} while the other worker lives")
        return True

    def check_kills(self):
        kills, gaps, start = 0, [], time.monotonic()
        while kills < self.options.kills:
            counter, result = threading.Semaphore(0), []
            thread = threading.Thread(target=lambda: result.append(self.streams(counter)))
            thread.start()
            kills += self.kill_one(counter, thread.is_alive)
            thread.join(300)
            require(result, "streams were lost with a worker")
            self.check_streams(result[0], f"kill {kills}")
            gaps += [event["gap_s"] for stream in result[0] for event in stream.events[1:]]
            wait_until(lambda: len(workers(self.d)) == GROUPS, "the next worker")
        gaps.sort()
        note(f"{kills} kills in {time.monotonic() - start:.1f} s; between tokens: median {gaps[len(gaps) // 2] * 1e3:.1f} "
             f"ms, p99 {gaps[len(gaps) * 99 // 100] * 1e3:.1f} ms, worst {gaps[-1] * 1e3:.0f} ms")
        require(self.d.metric("kvasir:pages_corrupt_total") == 0, "pages were corrupt")

    def check_adoption(self):
        for groups in (GROUPS, 1):
            old, thread = workers(self.d), threading.Thread(target=self.cut_streams)
            thread.start()
            wait_until(lambda: self.d.metric("vllm:num_requests_running") > 0, "a running stream")
            os.kill(self.d.pid, signal.SIGKILL)
            thread.join(60)
            self.d.wait_exit()
            self.start(groups)
            self.d.wait_line(r"adopted the pool of .*: (\d+) of \1 cached pages", deadline_s=1)
            require(not any(process_is_alive(pid) for pid in old), "a worker of the dead daemon lives")
            links = [name for name in shm_names(self.instance) if "-link." in name]
            require(len(links) == groups, f"{links} for {groups} groups")
            self.check_streams(self.streams(), f"adopted by {groups}")
            require(self.d.fsck() == [], self.d.fsck())

    def cut_streams(self):
        try:
            self.streams()
        except (OSError, AssertionError):
            pass  # they end with their daemon

    def check_end(self):
        self.d.stop()
        require(shm_names(self.instance) == [], shm_names(self.instance))


def tiny_body(i):
    return {"prompt": [3 + i, *range(9, 60 + i)], "max_tokens": 200, "ignore_eos": True, "return_token_ids": True,
            "temperature": i % 2, "seed": i, "logprobs": 2}


class Split:
    """Two groups of two ranks each, with a tiny model."""
    def __init__(self):
        self.instance, self.count = new_instance(), 6

    def start(self, *flags):
        d = Daemon(vectors_path("tiny", "llama_tied.gguf"), "--kv-cache-memory-bytes", "16M", *flags,
                   instance=self.instance, env=environment())
        groups = GROUPS if "--data-parallel-size" in flags else 1
        for group in range(groups):
            d.wait_line((f"worker of group {group}" if groups > 1 else "worker") + r" \d+: ")
        return d

    def run(self, d):
        return in_parallel(lambda i: d.post(COMPLETION, tiny_body(i))["choices"][0], range(self.count))

    def check(self, d, what):
        for i, (got, wanted) in enumerate(zip(self.run(d), self.wanted)):
            for name in ("token_ids", "logprobs", "finish_reason"):
                require(got[name] == wanted[name], f"{what}: request {i}: {name} {got[name]} for {wanted[name]}")

    def check_all(self):
        with self.start() as d:
            self.wanted = self.run(d)
        d = self.start("--data-parallel-size", GROUPS, "--tensor-parallel-size", 2)
        self.check(d, "two groups of two ranks")
        parts = sorted(name.split("-")[-1] for name in shm_names(self.instance))
        require({"exchange.0", "exchange.1", "kv.0", "kv.1", "link.0", "link.1"} <= set(parts), parts)
        old = workers(d)
        ranks = [process_children(pid) for pid in old]
        require([len(some) for some in ranks] == [2] * GROUPS, f"ranks {ranks} of {old}")
        os.kill(ranks[1][1], signal.SIGKILL)
        self.check(d, "a rank of the second group was killed")
        d.wait_line(r"the worker of group 1 is back")
        old = [*workers(d), *(rank for pid in workers(d) for rank in process_children(pid))]
        d.kill()
        for pid in old:
            wait_until(lambda: not process_is_alive(pid), f"process {pid} dies with its daemon")
        d = self.start("--tensor-parallel-size", 2)
        d.wait_line(r"adopted the pool of .*: [1-9]\d* of \d+ cached pages", deadline_s=1)
        parts = {name.split("-")[-1] for name in shm_names(self.instance)}
        require(not parts & {"exchange.1", "link.1"}, f"of the second group: {parts}")
        self.check(d, "adopted by one group")
        d.stop()
        require(shm_names(self.instance) == [], shm_names(self.instance))


def check_newer():
    """A worker of another build comes while one of the old computes: that is replaced, and nothing cached is used."""
    with open("/proc/cpuinfo") as file:
        if " avx2 " not in file.read():
            raise Skip("no avx2 here")
    with temporary_directory() as directory:
        level, script = (os.path.join(directory, name) for name in ("level", "worker"))

        def choose(name):
            with open(level, "w") as file:
                file.write(name)

        with open(script, "w") as file:
            file.write(f'#!/bin/sh\nKVASIR_KERNELS=$(cat {level}) exec {program("kvasir-worker")} "$@"\n')
        os.chmod(script, 0o755)
        model, results = vectors_path("tiny", "llama_tied.gguf"), {}
        for name in ("portable", "avx2"):
            choose(name)
            d = Daemon(model, "--worker-path", script)
            results[name] = d.post(COMPLETION, tiny_body(1))["choices"][0]["logprobs"]
            d.stop()
        require(results["portable"] != results["avx2"], "two levels that differ")
        with Daemon(model, "--worker-path", script, "--data-parallel-size", GROUPS) as d:
            for group in range(GROUPS):
                d.wait_line(rf"worker of group {group} \d+: ")
            require(d.post(COMPLETION, tiny_body(1))["choices"][0]["logprobs"] == results["avx2"], "before")
            choose("portable")
            os.kill(workers(d)[0], signal.SIGKILL)
            d.wait_line(r"cached pages are dropped: another build")
            for group in range(GROUPS):
                d.wait_line(rf"the worker of group {group} is back")
            require(d.post(COMPLETION, tiny_body(1))["choices"][0]["logprobs"] == results["portable"], "after")
            require(d.fsck() == [], d.fsck())


def main():
    options, tap = begin(__doc__, "two workers on one cache", kills=6, streams=8, tokens=64)
    run = Run(options)
    ok = tap.case("one worker alone", run.run_alone) and tap.case("two give the same tokens", run.check_equal)
    if ok:
        tap.case("the second finds what the first computed", run.check_hits)
        tap.case("streams survive the death of either", run.check_kills)
        tap.case("the next daemon adopts the pool, with two workers and with one", run.check_adoption)
        tap.case("a clean stop leaves nothing", run.check_end)
    tap.case("a worker of another build replaces the others", check_newer)
    if mpi_is_built():
        tap.case("two groups of two ranks each are as one process", Split().check_all)
    else:
        tap.skip("two groups of two ranks each", "this build has no MPI")
    tap.done()


if __name__ == "__main__":
    main()
