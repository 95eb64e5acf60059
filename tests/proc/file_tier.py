#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""file_tier - cached pages that outlive the pool, in a file.

file_tier.py [PART OF A NAME]. A prefix comes back after a restart with an empty pool, with the same bits; a damaged
file costs time, not tokens; a daemon killed while it writes leaves no wrong page; one daemon a file.
KVASIR_KILLS: how many daemons are killed (3). file_tier.py measure [MODEL [TOKENS [TURNS]]]: what a prefix costs from the
file, and computed."""
import os
import random
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, PAGE_TOKENS, cases_of, model_path, note, remove_names, require,  # noqa: E402
                         run_cases, wait_until)

COMPLETION = "/v1/completions"
PAGES = 24
PROMPT = [1000 + i * 7 % 9000 for i in range(PAGES * PAGE_TOKENS + 3)]
MODEL_LEN = 1024


class CacheFile:
    """A path in a folder of its own, gone when the case ends."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("KVASIR_TIER_FOLDER", "/var/tmp"))
        self.path = os.path.join(self.folder.name, "pages")
        return self

    def __exit__(self, *_):
        self.folder.cleanup()

    def daemon(self, *flags, size="64M", model=None):
        return Daemon(model or model_path(), "--max-model-len", MODEL_LEN, "--cache-file", self.path,
                      "--cache-file-bytes", size, *flags)


def ask(d, prompt, **more):
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "logprobs": 3, "return_token_ids": True,
            "ignore_eos": True, **more}
    answer = d.post(COMPLETION, body)
    choice = answer["choices"][0]
    bits = choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]
    return bits, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def wait_written(d, pages):
    bytes_of_page = 30 * 3 * 64 * 2 * 2 * PAGE_TOKENS  # SmolLM2-135M in f16
    wait_until(lambda: d.metric("kvasir:tier_written_bytes_total") >= pages * bytes_of_page, "pages are written")


def fill(file, **options):
    """-> what the prompt gives; its pages are in the file, the pool is gone."""
    with file.daemon(**options) as d:
        wanted, cached = ask(d, PROMPT)
        require(cached == 0, f"{cached} tokens were cached before they were seen")
        wait_written(d, PAGES)
        require(d.fsck() == [], d.fsck())
    return wanted


def test_a_prefix_comes_back_after_a_restart():
    with CacheFile() as file:
        wanted = fill(file)
        with file.daemon() as d:
            bits, cached = ask(d, PROMPT)
            require(bits == wanted, f"{bits} instead of {wanted}")
            require(cached == PAGES * PAGE_TOKENS, f"{cached} tokens came back")
            require(d.metric("kvasir:tier_hits_total") == PAGES * PAGE_TOKENS, "hits are told")
            bits, cached = ask(d, PROMPT[:100] + [5] * 50)  # its front is in the pool now
            require(cached == 100, f"{cached} tokens of a branch")
            salted, cached = ask(d, PROMPT, cache_salt="another tenant")
            require(cached == 0 and salted == wanted, f"{cached} tokens of another tenant")
            require(d.fsck() == [], d.fsck())


def test_many_that_ask_at_once_read_it_once():
    with CacheFile() as file:
        wanted = fill(file)
        with file.daemon() as d:
            answers = d.post(COMPLETION, {"prompt": [PROMPT] * 6, "max_tokens": 8, "temperature": 0,
                                          "logprobs": 3, "return_token_ids": True, "ignore_eos": True})
            for choice in answers["choices"]:
                require(choice["token_ids"] == wanted[0], choice)
            require(d.metric("kvasir:tier_hits_total") == PAGES * PAGE_TOKENS, "read once")
            require(d.fsck() == [], d.fsck())


def test_a_damaged_file_costs_time_and_no_token():
    with CacheFile() as file:
        wanted = fill(file)
        with open(file.path, "r+b") as f:
            size = os.fstat(f.fileno()).st_size
            for at in random.Random(1).sample(range(64 << 10, size // 4), 2000):
                f.seek(at)
                f.write(b"?")
        with file.daemon() as d:
            bits, _ = ask(d, PROMPT)
            require(bits == wanted, f"{bits} instead of {wanted}")
            require(d.metric("kvasir:tier_failures_total") > 0, "the damage was found")
            require(d.fsck() == [], d.fsck())


def test_pages_that_left_the_pool_come_back():
    others = [[500 + n * 50 + i % 40 for i in range(MODEL_LEN - 20)] for n in range(3)]
    with CacheFile() as file, file.daemon("--kv-cache-memory-bytes", f"{(MODEL_LEN // 16 + 2) * 360}K",
                                          size="200M") as d:
        wanted, _ = ask(d, PROMPT)
        for other in others:
            ask(d, other)
        wait_written(d, PAGES + 3 * len(others[0]) // PAGE_TOKENS)
        require(d.metric("kvasir:page_evictions_total") >= PAGES, "the prompt's pages were evicted")
        bits, cached = ask(d, PROMPT)
        require(bits == wanted, f"{bits} instead of {wanted}")
        require(cached == PAGES * PAGE_TOKENS, f"{cached} tokens came back")


def test_a_daemon_killed_while_it_writes_leaves_no_wrong_page():
    kills = int(os.environ.get("KVASIR_KILLS", "3"))
    rng = random.Random(int(os.environ.get("KVASIR_SEED", "1")))
    with CacheFile() as file:
        wanted = fill(file, size="16M")
        for _ in range(kills):
            d = file.daemon(size="16M")  # some pages only: they are overwritten all the time
            ask(d, [rng.randrange(1000, 9000) for _ in range(rng.randrange(50, 600))])
            d.process.kill()  # its pages are being written
            d.wait_exit()
            remove_names(d.instance)  # 94 MiB of pool each
        with file.daemon(size="16M") as d:
            for _ in range(2):
                bits, cached = ask(d, PROMPT)
                require(bits == wanted, f"{bits} instead of {wanted}, {cached} tokens cached")
            require(d.metric("kvasir:tier_failures_total") == 0, "a process's death damages no page")
        note(f"{kills} kills")


def test_one_daemon_a_file():
    with CacheFile() as file, file.daemon():
        second = Daemon(model_path(), "--cache-file", file.path, wait=False)
        require(second.wait_exit() == 75, "busy")
        second.wait_line("in use by another daemon")


def measure(model, tokens, turns):
    """TTFT of a prompt of so many tokens: computed, from the file into an empty pool, and from the pool."""
    prompt = [1000 + i * 7 % 9000 for i in range(tokens)]

    def seconds(d, **more):
        start = time.monotonic()
        usage = d.post(COMPLETION, {"prompt": prompt, "max_tokens": 1, **more})["usage"]
        return time.monotonic() - start, usage["prompt_tokens_details"]["cached_tokens"]

    flags = ("--max-model-len", tokens + 64, "--cache-file-bytes", "2G")
    computed, loaded, pooled = [], [], []
    with CacheFile() as file:
        for turn in range(turns + 1):
            with Daemon(model, "--cache-file", file.path, *flags) as d:
                d.post(COMPLETION, {"prompt": [5] * 40, "max_tokens": 1, "cache_salt": f"warm {turn}"})
                if turn:
                    with open(file.path, "rb") as f:  # from the disk, not from the kernel's memory
                        os.fsync(f.fileno())
                        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    loaded.append(seconds(d))
                    pooled.append(seconds(d))
                computed.append(seconds(d, **({"cache_salt": f"turn {turn}"} if turn else {})))
    for name, values in (("computed", computed), ("from the file", loaded), ("from the pool", pooled)):
        print(f"{name}: median {statistics.median(v for v, _ in values) * 1000:.0f} ms of "
              f"{[round(v * 1000) for v, _ in values]}, cached {sorted({c for _, c in values})}")
    ratio = statistics.median(v for v, _ in loaded) / statistics.median(v for v, _ in computed)
    print(f"file / computed: {100 * ratio:.1f} %")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(sys.argv[2] if len(sys.argv) > 2 else model_path(), int((sys.argv[3:4] or ["4000"])[0]),
                int((sys.argv[4:5] or ["3"])[0]))
    else:
        run_cases(cases_of(globals())).done()
