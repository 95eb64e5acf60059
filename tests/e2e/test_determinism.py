#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_determinism - the same request gives the same bits, however it was computed.

test_determinism.py [PART OF A NAME]. Alone on a fresh daemon is the yardstick; then cached, in company, in chunks
of a few tokens, on another number of threads, preempted and recomputed, in a pool that evicts. Compared are
token ids and every digit of their log-probabilities, for greedy and for seeded sampling."""
from kvasir_test import Daemon, Skip, Tap, cases_of, in_parallel, model_path, note, run_cases

MODEL_LEN = 512
PAGE_KIB = 360  # 16 tokens of SmolLM2 in f16
TEXT = ("In the beginning there was a town at the mouth of a river, and in the town there lived a maker of maps "
        "who had never left it. ")
COUNT, TOKENS = 6, 24


def require(condition, what):
    if not condition:
        raise AssertionError(what)


def body_of(i):
    """Request number i: prompts of 40 to 330 tokens, the second half of them sampled."""
    sampled = {"temperature": 1, "seed": i, "top_p": 0.95} if i >= COUNT // 2 else {"temperature": 0}
    return {"prompt": f"Tale number {i}. " + TEXT * (1 + i * 11 % COUNT + i % 2 * 2), "max_tokens": TOKENS,
            "ignore_eos": True, "logprobs": 3, "return_token_ids": True, **sampled}


def bits(d, i):
    choice = d.post("/v1/completions", body_of(i))["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]


class Yardstick:
    """What each request gives alone, computed once."""
    values = None

    @classmethod
    def get(cls):
        if cls.values is None:
            with Daemon(model_path(), "--max-model-len", MODEL_LEN) as d:
                cls.values = [bits(d, i) for i in range(COUNT)]
        return cls.values


def compare(d, order=range(COUNT), parallel=True):
    wanted = Yardstick.get()
    got = in_parallel(lambda i: bits(d, i), order) if parallel else [bits(d, i) for i in order]
    for i, value in zip(order, got):
        for name, a, b in zip(("token ids", "log-probabilities", "alternatives"), value, wanted[i]):
            require(a == b, f"request {i}: {name} {a} instead of {b}")


def test_in_company_and_cached():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN) as d:
        compare(d)
        compare(d, list(range(COUNT)) * 2)
        compare(d, range(COUNT - 1, -1, -1), parallel=False)
        require(d.metric("vllm:prefix_cache_hits_total") > 0, "nothing was cached")


def test_in_chunks_of_a_few_tokens():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--max-num-seqs", 8,
                "--max-num-batched-tokens", 24) as d:
        compare(d)


def test_in_one_piece():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--max-num-batched-tokens", 4096) as d:
        compare(d)


def test_on_one_thread_and_on_three():
    for threads in (1, 3):
        with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--threads", threads) as d:
            compare(d)


def test_preempted_and_evicted():
    pages = MODEL_LEN // 16 + 2
    with Daemon(model_path(), "--max-model-len", MODEL_LEN,
                "--kv-cache-memory-bytes", f"{pages * PAGE_KIB}K") as d:
        for _ in range(2):
            compare(d)
        preempted, evicted = (d.metric(name) for name in ("vllm:num_preemptions_total",
                                                          "kvasir:page_evictions_total"))
        note(f"{preempted:.0f} preemptions, {evicted:.0f} evictions")
        require(evicted > 0, "nothing was evicted")
        require(preempted > 0, "nothing was preempted")
        require(d.fsck() == [], d.fsck())


def main():
    cases = cases_of(globals())
    try:
        model_path()
    except Skip as reason:
        tap = Tap()
        for name, _function in cases:
            tap.skip(name, reason)
        tap.done()
    run_cases(cases).done()


if __name__ == "__main__":
    main()
