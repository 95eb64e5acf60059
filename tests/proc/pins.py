#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pins - what the operator pins and what requests ask to retain, against a flood through a small cache.

Pinned prefixes are there before the first request, after a flood, and after the daemon's death; folders, texts, chats and one
copy for each key; a file that is no prompt, or too much, is one clear error. A retained prompt outlives a flood that
takes an equal one without a hint."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, Skip, Tap, expect, model_path, new_instance, note, require,  # noqa: E402
                         temporary_directory, wait_until)

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
FLAGS = ("--max-model-len", 512, "--max-num-seqs", 4, "--kv-cache-memory-bytes", "30M")
RULES = "You answer in one sentence, and never say more than you were asked for. " * 8
MANUAL = "The pump is started with the green lever, after the valve was opened by half a turn. " * 6
PAGE_TOKENS = 16


def write(folder, name, text):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
        out.write(text)


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def complete(d, prompt, **fields):
    return d.post(COMPLETION, {"prompt": prompt, "max_tokens": 1, "temperature": 0, **fields})


def chat(d, text, **fields):
    return d.post(CHAT, {"messages": [{"role": "system", "content": RULES}, {"role": "user", "content": text}],
                         "max_tokens": 1, "temperature": 0, **fields})


def flood(d):
    """More than the pool holds, nothing of it in common."""
    for i in range(12):
        complete(d, f"{i} and {i * 7919}: " + " ".join(str(i * 1000 + k) for k in range(60)))


def pinned_pages(d):
    return d.metric("kvasir:kv_pages_pinned")


def test_pins_are_there_before_anybody_asks_and_stay():
    instance = new_instance()
    with temporary_directory() as folder:
        write(folder, "manual.txt", MANUAL)
        write(folder, "rules.json", '{"messages": [{"role": "system", "content": "%s"}]}' % RULES)
        write(folder, ".hidden", "x")
        for life in range(2):
            d = Daemon(model_path(), *FLAGS, "--cache-pin", folder, instance=instance)
            d.wait_line(r"2 prefixes are pinned, (\d+) pages")
            pages = pinned_pages(d)
            require(pages > 10, f"{pages} pages are pinned")
            if life == 0:
                computed = pages * PAGE_TOKENS
            d.post("/reset_prefix_cache", {})
            flood(d)
            require(cached(complete(d, MANUAL + "Why?")) >= 5 * PAGE_TOKENS, "the text's pages")
            require(cached(chat(d, "What is your rule?")) >= 5 * PAGE_TOKENS, "the chat's pages")
            expect(pinned_pages(d), pages, "pages pinned after the flood")
            expect(pages * PAGE_TOKENS, computed, "pages of the second life")
            if life == 0:
                d.kill()
            else:
                d.stop()
        note(f"{pages:.0f} pages stayed")


def test_pins_of_each_key():
    with temporary_directory() as folder:
        path = os.path.join(folder, "manual.txt")
        write(folder, "manual.txt", MANUAL)
        with Daemon(model_path(), *FLAGS, "--cache-pin", path, "--api-key", "one,two") as d:
            d.wait_line(r"2 prefixes are pinned")
            for key in ("one", "two"):
                d.key = key
                require(cached(complete(d, MANUAL + "Why?")) >= 5 * PAGE_TOKENS, f"pages of key {key}")


def refused(pattern, *flags):
    d = Daemon(model_path(), *FLAGS, *flags, wait=False)
    expect(d.wait_exit(), 78, "exit status")
    d.wait_line(pattern, deadline_s=1)


def test_pins_that_cannot_be_are_refused():
    with temporary_directory() as folder:
        write(folder, "short.txt", "Hello")
        write(folder, "broken.json", "{")
        write(folder, "manual.txt", MANUAL)
        for name, pattern in (("short.txt", r"short.txt: .*do not fill a page"), ("broken.json", r"broken.json: ")):
            refused(pattern, "--cache-pin", os.path.join(folder, name))
        refused(r"manual.txt: 1 prefixes take \d+ pages of 16 tokens, and 0 may be pinned", "--cache-pin-share", 0,
                "--cache-pin", os.path.join(folder, "manual.txt"))


def test_retained_prompts_outlive_a_flood():
    retained, plain = MANUAL + "A.", RULES + "B."
    with Daemon(model_path(), *FLAGS) as d:
        complete(d, plain)
        complete(d, retained, prompt_cache_retention="24h")
        pages = d.metric("kvasir:kv_pages_retained")
        require(pages >= 5, f"{pages} pages are retained")
        flood(d)
        require(cached(complete(d, plain)) < PAGE_TOKENS, "what nobody retained is gone")
        require(cached(complete(d, retained)) >= (pages - 1) * PAGE_TOKENS, "what was retained")
        expect(d.metric("kvasir:kv_pages_retained"), pages, "pages retained")
        complete(d, "Once upon a time, " * 20, kv_cache_retention_config={
            "token_range_retention_configs": [{"token_start": 0, "token_end": 32, "priority": 80, "duration_ms": 1000}]})
        expect(d.metric("kvasir:kv_pages_retained"), pages + 2, "pages of a range")

        def is_over():
            complete(d, "Hello")
            return d.metric("kvasir:kv_pages_retained") == pages
        wait_until(is_over, "the range's time is over")
    with Daemon(model_path(), *FLAGS, "--cache-retention-share", 0) as d:
        complete(d, retained, prompt_cache_retention="24h")
        expect(d.metric("kvasir:kv_pages_retained"), 0, "hints that are not taken")


def main():
    tap = Tap()
    try:
        model_path()
    except Skip as reason:
        tap.skip("pins", reason)
        tap.done()
    for test in (test_pins_are_there_before_anybody_asks_and_stay, test_pins_of_each_key,
                 test_pins_that_cannot_be_are_refused, test_retained_prompts_outlive_a_flood):
        tap.case(test.__name__[5:].replace("_", " "), test)
    tap.done()


if __name__ == "__main__":
    main()
