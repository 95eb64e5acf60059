#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""adoption - kill -9 of worker, daemon or both under greedy streams: the next daemon takes over the cache.

adoption.py [--kills 9] [--flips 60] [--streams 16] [--tokens 48] [--seed N] [--warm-ms 0]

Kills: at a random point within a random step. No stream whose daemon lived may end early or differ by a byte from an
undisturbed run; one whose daemon died may only be cut. What the dead daemon had sealed the next one must have, nothing
of it may be wrong. Flips: one bit each in pages of a dead pool, each page is then read again: every one must
be found, and no token may change. --warm-ms: fail when the first hit after a start takes longer (0: report)."""
import mmap
import os
import random
import re
import signal
import struct
import subprocess
import json
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, begin, in_parallel, model_path, new_instance, note, process_is_alive,  # noqa: E402
                         program, require, shm_names, wait_until)

COMPLETION = "/v1/completions"
PAGE_TOKENS, DESC_BYTES, PAGE_FILLING, PAGE_SEALED, PAGE_NONE = 16, 64, 1, 2, 2**32 - 1
CHAINS = 256  # of the flips
FLAGS = ("--max-model-len", 1024, "--max-num-seqs", 16)
OPENINGS = ["The capital of France is", "def fibonacci(n):", "Once upon a time, in a small village by the sea,",
            "1, 2, 3, 5, 8, 13,", "Water boils at 100 degrees Celsius because", "Dear Sir or Madam,",
            "The most important rule of sailing is", "A list of all rivers of Europe:"]
COMMON = "You are a helpful assistant that answers in one sentence and never says more than it was asked for. " * 3


def prompt_of(i):
    return f"{COMMON if i % 2 else ''}Number {i}. {OPENINGS[i % len(OPENINGS)]}"


def body_of(prompt, tokens):
    return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}


def fsck_report(instance):
    done = subprocess.run([program("kvasir"), "fsck", "--instance", instance, "--json"], stdout=subprocess.PIPE,
                          timeout=120, check=False)
    return json.loads(done.stdout)


def ids_of(answer):
    return answer["choices"][0]["token_ids"]


class Run:
    """One instance through many lives of its daemon."""

    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.instance, self.d = new_instance(), None
        self.kills = {"worker": 0, "daemon": 0, "both": 0}
        self.sealed = self.kept = 0
        self.warm_ms, self.ready_ms, self.adopt_ms = [], [], []

    def start(self):
        """The first daemon, or the next one on what the last left. -> cached tokens of the first answer"""
        dead = fsck_report(self.instance) if shm_names(self.instance) else None
        start = time.monotonic()
        self.d = Daemon(model_path(), *FLAGS, instance=self.instance)
        ready = time.monotonic()
        answer = self.d.post(COMPLETION, body_of(prompt_of(1), 1))
        warm = time.monotonic()
        if dead is None:
            return
        require(dead["faults"] == [], f"fsck of the dead pool: {dead['faults']}")
        found = self.d.wait_line(r"adopted the pool of .* in ([0-9.]+) ms: (\d+) of (\d+) cached pages", deadline_s=1)
        require(int(found[3]) == dead["sealed"], f"{found[0]}; fsck found {dead['sealed']} sealed")
        self.sealed, self.kept = self.sealed + dead["sealed"], self.kept + int(found[2])
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        if dead["sealed"] > 0 and self.wanted:
            require(cached >= PAGE_TOKENS, f"the first answer was cold: {cached} tokens cached")
            self.warm_ms.append((warm - start) * 1e3)
            self.ready_ms.append((ready - start) * 1e3)
            self.adopt_ms.append(float(found[1]))

    wanted = None

    def run_calm(self):
        """What every stream is to say."""
        self.wanted = in_parallel(lambda i: ids_of(self.d.post(COMPLETION, body_of(prompt_of(i), self.options.tokens))),
                                  range(self.options.streams))

    def kill(self, target):
        worker = self.d.worker_pid()
        victims = {"worker": [worker], "daemon": [self.d.pid], "both": [worker, self.d.pid]}[target]
        if target == "both" and self.random.random() < 0.5:
            victims.reverse()
        for pid in victims:
            if pid:
                os.kill(pid, signal.SIGKILL)
        self.kills[target] += 1

    def run_round(self, target):
        """All streams at once, and one death among them."""
        counter, results = threading.Semaphore(0), [None] * self.options.streams

        def run(i):
            ids, ended = [], False
            try:
                for event in self.d.stream(COMPLETION, body_of(prompt_of(i), self.options.tokens)):
                    for choice in event["choices"]:
                        ids += choice.get("token_ids") or []
                        ended = ended or choice["finish_reason"] == "length"
                        counter.release()
            except (OSError, AssertionError) as failure:
                results[i] = (ids, ended, failure)
                return
            results[i] = (ids, ended, None)

        runner = threading.Thread(target=in_parallel, args=(run, range(self.options.streams)))
        runner.start()
        for _ in range(self.random.randrange(1, self.options.streams * self.options.tokens * 2 // 3)):
            counter.acquire(timeout=60)
        time.sleep(self.random.random() * 0.01)  # a point within a step
        self.kill(target)
        runner.join(300)
        require(not runner.is_alive(), "streams hang")
        for i, (ids, ended, failure) in enumerate(results):
            require(ids == self.wanted[i][:len(ids)], f"{target}: stream {i} said {ids} for {self.wanted[i]}")
            if target == "worker":
                require(failure is None and ended, f"stream {i} was lost with the worker: {failure!r}")
                require(ids == self.wanted[i], f"stream {i} has {len(ids)} tokens")
        if target != "worker":
            self.d.wait_exit()

    def check_kills(self):
        self.start()
        self.run_calm()
        while sum(self.kills.values()) < self.options.kills:
            target = self.random.choice(["worker", "daemon", "both"])
            self.run_round(target)
            if target != "worker":
                self.start()
        again = in_parallel(lambda i: ids_of(self.d.post(COMPLETION, body_of(prompt_of(i), self.options.tokens))),
                            range(self.options.streams))
        require(again == self.wanted, "after all that the answers differ")
        require(self.d.fsck() == [], self.d.fsck())
        checked, corrupt = self.d.metric("kvasir:pages_checked_total"), self.d.metric("kvasir:pages_corrupt_total")
        require(corrupt == 0, f"{corrupt} pages were corrupt")
        note(f"kills: {self.kills}; adopted {self.kept} of {self.sealed} sealed pages; the last daemon checked "
             f"{checked:.0f} pages")
        if self.warm_ms:
            self.note_times()
        require(self.kept >= 0.99 * self.sealed, "pages were lost")

    def note_times(self):
        for name, times in (("exec to first warm answer", self.warm_ms), ("exec to ready", self.ready_ms),
                            ("adoption", self.adopt_ms)):
            times = sorted(times)
            note(f"{name}: median {times[len(times) // 2]:.1f} ms, worst {times[-1]:.1f} ms of {len(times)}")
        if self.options.warm_ms:
            require(max(self.warm_ms) <= self.options.warm_ms, "a warm start took too long")

    # -- flips --

    def chains(self):
        """Prompts of their own, two pages and a token each. -> [token ids]"""
        return [[self.random.randrange(1000, 40000) for _ in range(2 * PAGE_TOKENS + 1)] for _ in range(CHAINS)]

    def answers(self, prompts):
        """To the bit: a token and the log-probabilities beside it."""
        def choice(ids):
            return self.d.post(COMPLETION, {**body_of(ids, 1), "logprobs": 5})["choices"][0]

        return [[answer[name] for name in ("token_ids", "logprobs")]
                for first in range(0, len(prompts), 16) for answer in in_parallel(choice, prompts[first:first + 16])]

    def flip(self, count):
        """One bit each in one page of `count` chains of the dead pool: behind a bad page nothing is read any more."""
        with open(f"/dev/shm/kvasir-{self.instance}-meta", "rb") as file:
            meta = file.read()
        desc_offset, = struct.unpack_from("<Q", meta, 56)
        page_count, = struct.unpack_from("<I", meta, 80)
        descs = [struct.unpack_from("<I28xI", meta, desc_offset + i * DESC_BYTES) for i in range(page_count)]
        chains = {i: [i] for i, (state, parent) in enumerate(descs) if state == PAGE_SEALED and parent == PAGE_NONE}
        for i, (state, parent) in enumerate(descs):
            if state == PAGE_SEALED and parent in chains:
                chains[parent].append(i)
        require(len(chains) == CHAINS and all(len(chain) == 2 for chain in chains.values()), f"{len(chains)} chains")
        pages = [self.random.choice(chain) for chain in self.random.sample(list(chains.values()), count)]
        with open(f"/dev/shm/kvasir-{self.instance}-kv.0", "r+b") as file, mmap.mmap(file.fileno(), 0) as payload:
            page_bytes = len(payload) // page_count
            for page in pages:
                at = page * page_bytes + self.random.randrange(page_bytes)
                payload[at] ^= 1 << self.random.randrange(8)

    def die(self):
        worker = self.d.worker_pid()
        self.d.process.kill()
        self.d.wait_exit()
        wait_until(lambda: not process_is_alive(worker), "the worker is gone")

    def check_flips(self):
        flags = (*FLAGS, "--kv-cache-memory-bytes", "256M")
        self.d = Daemon(model_path(), *flags, instance=self.instance)
        prompts = self.chains()
        wanted = self.answers(prompts)
        flipped = found = lives = 0
        while flipped < self.options.flips:
            self.die()
            count = min(CHAINS, self.options.flips - flipped)
            self.flip(count)
            report = fsck_report(self.instance)
            require(report["fault_count"] == count, f"fsck found {report['fault_count']} of {count}")
            self.d = Daemon(model_path(), *flags, instance=self.instance)
            require(self.answers(prompts) == wanted, f"wrong tokens after {count} flips")
            corrupt = self.d.metric("kvasir:pages_corrupt_total")
            flipped, found, lives = flipped + count, found + corrupt, lives + 1
            require(corrupt == count, f"{corrupt:.0f} of {count} flips were found")
            require(self.d.fsck() == [], self.d.fsck())
        note(f"{flipped} bits flipped in {lives} lives, {found:.0f} found at reuse, 0 wrong tokens")

    def check_end(self):
        self.d.stop()
        self.d = None


def check_keep(options):
    """A clean stop with --cache-keep is a pause; the next clean stop without it leaves nothing."""
    instance = new_instance()
    d = Daemon(model_path(), *FLAGS, "--cache-keep", instance=instance)
    wanted = ids_of(d.post(COMPLETION, body_of(prompt_of(1), options.tokens)))
    d.process.send_signal(signal.SIGTERM)
    require(d.wait_exit() == 0, "a clean end")
    names = sorted(name.rsplit("-", 1)[1] for name in shm_names(instance))
    require(names == ["kv.0", "meta"], names)
    report = fsck_report(instance)
    require(report["faults"] == [] and report["filling"] == report["pinned"] == 0, report)
    # A start that fails leaves it, whatever is set.
    failed = subprocess.run([program("kvasird"), model_path(), "--instance", instance, "--max-model-len", "1024",
                             "--max-num-seqs", "16", "--port", "0", "--worker-path", "/bin/false"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    require(failed.returncode != 0 and len(shm_names(instance)) == 2, failed.stdout)
    # Another shape of the pool does not take it, and says so.
    with Daemon(model_path(), *FLAGS, instance=instance) as again:
        require(any("of an ended daemon" in line for line in again.lines), again.lines)
        answer = again.post(COMPLETION, body_of(prompt_of(1), options.tokens))
        require(ids_of(answer) == wanted, "other tokens")
        require(answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= PAGE_TOKENS, answer["usage"])


def check_other(_options):
    """A pool of another shape is not used, and the log says what differs."""
    instance = new_instance()
    d = Daemon(model_path(), *FLAGS, instance=instance)
    d.complete("Hello", max_tokens=2)
    d.kill()
    with Daemon(model_path(), *FLAGS, "--kv-cache-dtype", "q8", instance=instance) as again:
        line = next(line for line in again.lines if "starting with an empty cache" in line)
        require(re.search(r"KV type: 0, wanted 2", line), line)
        again.complete("Hello", max_tokens=2)
        second = subprocess.run([program("kvasird"), model_path(), "--instance", instance, "--port", "0",
                                 "--worker-path", program("kvasir-worker")], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, timeout=60, check=False)
        require(second.returncode == 75, f"a second daemon exits {second.returncode}")


def weights_names():
    return {name for name in os.listdir("/dev/shm") if name.startswith("kvasir-weights.")}


def weights_in_use():
    """By daemons beside this test, whose weights ours may be."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
                if "/dev/shm/kvasir-weights." in file.read():
                    return True
        except OSError:
            pass
    return False


def check_other_kernels(options):
    """Kernels that give other bits do not read what others computed; the same ones do."""
    def life(kernels, wanted_lines):
        d = Daemon(model_path(), *FLAGS, instance=instance, env={"KVASIR_KERNELS": kernels})
        answer = d.post(COMPLETION, body_of(prompt_of(1), options.tokens))
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        lines = sum("cached pages are dropped" in line for line in d.lines)
        require(lines == wanted_lines, d.lines)
        require(d.fsck() == [], d.fsck())
        d.kill()
        return ids_of(answer), cached

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        faster = "avx2" if " avx2 " in file.read() else "ref"
    instance = new_instance()
    wanted, cached = life("portable", 0)
    require(cached == 0, f"{cached} tokens cached of nothing")
    again, cached = life("portable", 0)
    require(again == wanted and cached >= PAGE_TOKENS, f"{cached} tokens of the same kernels")
    _, cached = life(faster, 1)
    require(cached == 0, f"{cached} tokens of other kernels")
    again, cached = life("portable", 1)
    require(again == wanted and cached == 0, f"{cached} tokens of other kernels")
    require(kvasir_cache("drop", instance)[0] == 0, "drop")


def process_is_stopped(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def damage_filling(instance):
    """What a wild write may do to part-filled pages: all their bytes are others. -> how many pages"""
    with open(f"/dev/shm/kvasir-{instance}-meta", "rb") as file:
        meta = file.read()
    desc_offset, = struct.unpack_from("<Q", meta, 56)
    page_count, = struct.unpack_from("<I", meta, 80)
    pages = [i for i in range(page_count)
             if struct.unpack_from("<I", meta, desc_offset + i * DESC_BYTES)[0] == PAGE_FILLING]
    with open(f"/dev/shm/kvasir-{instance}-kv.0", "r+b") as file, mmap.mmap(file.fileno(), 0) as payload:
        page_bytes = len(payload) // page_count
        for page in pages:
            payload[page * page_bytes:(page + 1) * page_bytes] = b"\x35" * page_bytes
    return len(pages)


def check_wild(options):
    """A worker that dies of its own doing may have written into part-filled pages: they are computed again."""
    with Daemon(model_path(), *FLAGS) as d:
        wanted = [ids_of(d.post(COMPLETION, body_of(prompt_of(i), options.tokens))) for i in range(4)]
        for name in ("SIGSEGV", "SIGBUS", "SIGABRT"):
            counter, results = threading.Semaphore(0), [None] * len(wanted)

            def run(i):
                ids = []
                for event in d.stream(COMPLETION, body_of(prompt_of(i), options.tokens)):
                    for choice in event["choices"]:
                        ids += choice.get("token_ids") or []
                        counter.release()
                results[i] = ids

            runner = threading.Thread(target=in_parallel, args=(run, range(len(wanted))))
            runner.start()
            for _ in range(len(wanted) * options.tokens // 2):
                require(counter.acquire(timeout=60), "streams hang")
            worker = d.worker_pid()
            os.kill(worker, signal.SIGSTOP)
            wait_until(lambda: process_is_stopped(worker), "the worker stands still")
            damaged = damage_filling(d.instance)
            os.kill(worker, getattr(signal, name))
            os.kill(worker, signal.SIGCONT)
            runner.join(120)
            require(results == wanted, f"{name}: {damaged} pages damaged, {results} for {wanted}")
            require(damaged > 0, "no page was part-filled")
            require(d.fsck() == [], d.fsck())
        require(d.metric("kvasir:worker_restarts_total") == 3, "three deaths")


def kvasir_cache(verb, instance):
    done = subprocess.run([program("kvasir"), "cache", verb, "--instance", instance, "--json"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, check=False)
    return done.returncode, done.stdout.decode()


def check_commands(options):
    """kvasir cache beside a live daemon and after its death; POST /reset_prefix_cache."""
    d = Daemon(model_path(), *FLAGS)
    body = body_of(prompt_of(1), options.tokens)
    wanted = ids_of(d.post(COMPLETION, body))
    stat = json.loads(kvasir_cache("stat", d.instance)[1])
    require(stat["owner_alive"] and stat["cached"] > 0 and stat["prefixes"] == 1, stat)
    trees = json.loads(kvasir_cache("ls", d.instance)[1])
    require([tree["pages"] for tree in trees] == [stat["cached"]], trees)
    require(kvasir_cache("drop", d.instance)[0] == 75, "a live cache was dropped")
    require(d.post("/reset_prefix_cache", {})["pages_dropped"] == stat["cached"], "pages dropped")
    require(json.loads(kvasir_cache("stat", d.instance)[1])["cached"] == 0, "pages are left")
    answer = d.post(COMPLETION, body)
    require(ids_of(answer) == wanted and answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, answer)
    d.kill()
    require(json.loads(kvasir_cache("stat", d.instance)[1])["cached"] > 0, "a dead pool has pages")
    mapped = weights_names()
    require(mapped, "a dead worker's weights are left")
    require(kvasir_cache("drop", d.instance)[0] == 0, "drop")
    require(shm_names(d.instance) == [], shm_names(d.instance))
    require(weights_names() < mapped or weights_in_use(), f"of {mapped} are left {weights_names()}")
    # Weights that a test beside this one leaves are dropped with a 0 meanwhile.
    wait_until(lambda: kvasir_cache("drop", d.instance)[0] == 69, "there is nothing to drop any more")


def main():
    options, tap = begin(__doc__, "adoption", kills=9, flips=60, streams=16, tokens=48, warm_ms=0.0)
    if options.kills:
        run = Run(options)
        if tap.case(f"{options.kills} kills lose no page and no token", run.check_kills):
            tap.case("a clean stop leaves nothing", run.check_end)
    if options.flips:
        run = Run(options)
        if tap.case(f"{options.flips} flipped bits are found at reuse", run.check_flips):
            tap.case("and a clean stop leaves nothing", run.check_end)
    tap.case("--cache-keep keeps the cache over a clean stop", check_keep, options)
    tap.case("a pool of another shape is not used", check_other, options)
    tap.case("pages of other kernels are not used", check_other_kernels, options)
    tap.case("part-filled pages are computed again after a wild death", check_wild, options)
    tap.case("kvasir cache lists and drops", check_commands, options)
    tap.done()


if __name__ == "__main__":
    main()
