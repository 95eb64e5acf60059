#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_determinism - the same request gives the same bits, however it was computed.

test_determinism.py [PART OF A NAME]. Alone on a fresh daemon is the yardstick; then cached, in company, in chunks
of a few tokens, on another number of threads, by two workers, preempted and recomputed, in a pool that evicts. Compared are
token ids and every digit of their log-probabilities, for greedy and for seeded sampling."""
from kvasir_test import Daemon, cases_of, in_parallel, model_path, note, require, run_cases

MODEL_LEN = 512
PAGE_KIB = 360  # 16 tokens of SmolLM2 in f16
TEXT = ("In the beginning there was a town at the mouth of a river, and in the town there lived a maker of maps "
        "who had never left it. ")
COUNT, TOKENS = 6, 24


def body_of(i):
    """Request number i: prompts of 40 to 330 tokens, the second half of them sampled."""
    sampled = {"temperature": 1, "seed": i, "top_p": 0.95} if i >= COUNT // 2 else {"temperature": 0}
    return {"prompt": f"Tale number {i}. " + TEXT * (1 + i * 11 % COUNT + i % 2 * 2), "max_tokens": TOKENS,
            "ignore_eos": True, "logprobs": 3, "return_token_ids": True, **sampled}


def long_body_of(i):
    """Short prompts that are admitted together and grow until the pool is full."""
    return {**body_of(i), "prompt": f"Tale number {i}. " + TEXT, "max_tokens": 120}


def bits(d, body):
    choice = d.post("/v1/completions", body)["choices"][0]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]


class Yardstick:
    """What each request gives alone, computed once."""
    values = None

    @classmethod
    def get(cls):
        if cls.values is None:
            with Daemon(model_path(), "--max-model-len", MODEL_LEN) as d:
                cls.values = [bits(d, body_of(i)) for i in range(COUNT)]
        return cls.values


def compare(d, order=range(COUNT)):
    got = in_parallel(lambda i: bits(d, body_of(i)), order)
    wanted = Yardstick.get()
    check_equal(got, [wanted[i] for i in order])


def check_equal(got, wanted):
    for i, (value, other) in enumerate(zip(got, wanted)):
        for name, a, b in zip(("token ids", "log-probabilities", "alternatives"), value, other):
            require(a == b, f"request {i}: {name} {a} instead of {b}")


def test_in_company_and_cached():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN) as d:
        compare(d)
        compare(d, list(range(COUNT)) * 2)
        require(d.metric("vllm:prefix_cache_hits_total") > 0, "nothing was cached")


def test_where_a_cached_prefix_ends_inside_a_page():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN) as d:
        ids = list(range(1000, 1080))
        d.post("/v1/completions", {"prompt": ids, "max_tokens": 1})
        for cut in (1, 7, 15, 16, 17, 40, 63, 79):
            body = {"prompt": ids[:cut] + [500 + cut] * 3, "max_tokens": 4, "temperature": 0, "logprobs": 3,
                    "return_token_ids": True}
            cached = d.post("/v1/completions", body)["usage"]["prompt_tokens_details"]["cached_tokens"]
            require(cached == cut, f"{cached} cached tokens instead of {cut}")
            alone = bits(d, {**body, "cache_salt": f"cut {cut}"})  # a salt of its own: nothing is cached
            check_equal([bits(d, body)], [alone])
        usage = d.post("/v1/completions", {"prompt": ids, "max_tokens": 1})["usage"]
        require(usage["prompt_tokens_details"]["cached_tokens"] == 79, f"all but one were cached: {usage}")


def test_in_chunks_of_a_few_tokens():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--max-num-seqs", 8,
                "--max-num-batched-tokens", 24) as d:
        compare(d)


def test_in_one_piece():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--max-num-batched-tokens", 4096) as d:
        compare(d)


def test_on_another_number_of_threads():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--threads", 3) as d:
        compare(d)


def test_by_two_workers():
    with Daemon(model_path(), "--max-model-len", MODEL_LEN, "--data-parallel-size", 2) as d:
        compare(d)
        compare(d, list(range(COUNT)) * 2)
        steps = [value for key, value in d.metrics().items() if key.startswith("kvasir:engine_steps_total{")]
        require(len(steps) == 2 and sum(steps) > 0, f"steps of the workers: {steps}")
        require(d.metric("vllm:prefix_cache_hits_total") > 0, "nothing was cached")


def test_preempted_and_evicted():
    bodies = [long_body_of(i) for i in range(8)]
    with Daemon(model_path(), "--max-model-len", MODEL_LEN) as d:
        wanted = in_parallel(lambda body: bits(d, body), bodies)  # as alone: the cases above
    pages = MODEL_LEN // 16 + 2
    with Daemon(model_path(), "--max-model-len", MODEL_LEN,
                "--kv-cache-memory-bytes", f"{pages * PAGE_KIB}K") as d:
        check_equal(in_parallel(lambda body: bits(d, body), bodies), wanted)
        compare(d)
        preempted, evicted = (d.metric(name) for name in ("vllm:num_preemptions_total",
                                                          "kvasir:page_evictions_total"))
        note(f"{preempted:.0f} preemptions, {evicted:.0f} evictions")
        require(evicted > 0, "nothing was evicted")
        require(preempted > 0, "nothing was preempted")
        require(d.fsck() == [], d.fsck())


if __name__ == "__main__":
    run_cases(cases_of(globals())).done()
