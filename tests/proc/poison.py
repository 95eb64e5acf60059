#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""poison - a request that no worker survives fails alone: the others go on, to the bit.

poison.py [PART OF A NAME]. The model is a tiny one in which the embedding of one token is not a number, so that
every step with that token is refused and its worker restarted."""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, StreamError, Streamed, cases_of, expect, in_parallel, need, require,  # noqa: E402
                         run_cases, temporary_directory, vectors_path)

COMPLETION = "/v1/completions"
POISON = 77  # a token id
STRING, ARRAY = 8, 9
VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by GGUF value type
F32_BYTES, ALIGNMENT = 4, 32


class Gguf:
    """Just enough of a reader to find where a tensor's bytes are."""

    def __init__(self, content):
        self.content, self.at, self.tensors = content, 8, {}
        tensor_count, value_count = self.take("<QQ")
        for _ in range(value_count):
            self.string()
            self.skip_value(self.take("<I")[0])
        for _ in range(tensor_count):
            name = self.string()
            shape = self.take("<%dQ" % self.take("<I")[0])
            kind, offset = self.take("<IQ")
            self.tensors[name] = (shape, kind, offset)
        self.data = -(-self.at // ALIGNMENT) * ALIGNMENT

    def take(self, layout):
        values = struct.unpack_from(layout, self.content, self.at)
        self.at += struct.calcsize(layout)
        return values

    def string(self):
        length = self.take("<Q")[0]
        self.at += length
        return bytes(self.content[self.at - length:self.at]).decode()

    def skip_value(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            kind, count = self.take("<IQ")
            for _ in range(count):
                self.skip_value(kind)
        else:
            self.at += VALUE_BYTES[kind]


def write_poisoned(path):
    with open(vectors_path("tiny", "llama_untied.gguf"), "rb") as file:
        content = bytearray(file.read())
    gguf = Gguf(content)
    shape, kind, offset = gguf.tensors["token_embd.weight"]
    require(kind == 0, "an F32 embedding")
    row = gguf.data + offset + POISON * shape[0] * F32_BYTES
    content[row:row + shape[0] * F32_BYTES] = struct.pack("<f", float("nan")) * shape[0]
    with open(path, "wb") as file:
        file.write(content)


def body_of(i):
    """Request i is greedy or sampled, and never says the poisoned token itself."""
    return {"prompt": [3 + i, 9, 40 + i], "max_tokens": 300, "ignore_eos": True, "return_token_ids": True,
            "logit_bias": {str(POISON): -100}, "temperature": i % 2, "seed": i}


def poisoned(d, stream):
    body = {"prompt": [5, POISON, 6], "max_tokens": 5}
    if not stream:
        expect(d.call("POST", COMPLETION, body).status, 500)
        return None
    try:
        list(d.stream(COMPLETION, body))
    except StreamError as failure:
        require("500" in str(failure), failure)
        return None
    raise AssertionError("a poisoned request was answered")


def test_it_fails_and_the_next_is_served(d):
    poisoned(d, stream=False)
    poisoned(d, stream=True)
    expect(len(Streamed(d.stream(COMPLETION, body_of(0))).ids), 300)


def test_others_go_on_to_the_bit(d):
    calm = [Streamed(d.stream(COMPLETION, body_of(i))).ids for i in range(6)]
    deaths = d.metric("kvasir:worker_deaths_total")
    jobs = [lambda i=i: Streamed(d.stream(COMPLETION, body_of(i))).ids for i in range(6)]
    jobs[3:3] = [lambda: poisoned(d, stream=True), lambda: poisoned(d, stream=False)]
    got = in_parallel(lambda job: job(), jobs)
    expect(got[:3] + got[5:], calm)
    require(d.metric("kvasir:worker_deaths_total") > deaths, "no worker died of it")


def test_nothing_of_it_is_left(d):
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        expect(d.metric("vllm:" + name), 0, name)
    expect(d.fsck(), [])


def main():
    cases = cases_of(globals())
    with temporary_directory() as folder:
        path = os.path.join(folder, "poisoned.gguf")
        need(cases, write_poisoned, path)
        with Daemon(path) as d:
            tap = run_cases(cases, d)
    tap.done()


if __name__ == "__main__":
    main()
