#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_connections - clients that are slow, silent, or too many: each costs the others nothing.

test_connections.py [PART OF A NAME]. The daemon's times are set to one second; a tiny model computes."""
import json
import socket
import time

from kvasir_test import (Daemon, call, cases_of, connect, expect, in_parallel, need, process_rss_bytes, require,
                         run_cases, vectors_path, wait_until)

COMPLETION = "/v1/completions"
LATE_S_MAX = 10  # a second's timeout on a busy machine
CONNECTIONS_MAX = 24
FLAGS = ("--header-timeout", 1, "--body-timeout", 1, "--idle-timeout", 1, "--slow-reader-timeout", 1,
         "--max-connections", CONNECTIONS_MAX)


def all_from(sock):
    """Everything until the server closes, and the seconds that took."""
    start = time.monotonic()
    sock.settimeout(LATE_S_MAX)
    data = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    return data, time.monotonic() - start


def serves(d):
    expect(len(d.complete("a", max_tokens=2, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"]), 2)


def test_open_connections_are_counted(d):
    socks = [socket.create_connection(d.address) for _ in range(3)]
    wait_until(lambda: d.metric("kvasir:http_connections") == 4, "three and the one that asks", LATE_S_MAX)
    for sock in socks:
        sock.close()
    wait_until(lambda: d.metric("kvasir:http_connections") == 1, "only the one that asks", LATE_S_MAX)


def test_a_slow_head_is_answered_408(d):
    with socket.create_connection(d.address) as sock:
        sock.sendall(b"POST /v1/completions HTT")
        data, seconds = all_from(sock)
    require(data.startswith(b"HTTP/1.1 408"), data[:100])
    require(0.5 < seconds, seconds)
    serves(d)


def test_a_slow_body_is_answered_408(d):
    with socket.create_connection(d.address) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n{\"prompt\"")
        data, seconds = all_from(sock)
    require(data.startswith(b"HTTP/1.1 408"), data[:100])
    require(0.5 < seconds, seconds)
    serves(d)


def test_a_silent_connection_is_closed_without_a_word(d):
    with socket.create_connection(d.address) as sock:
        expect(all_from(sock)[0], b"", "never spoke")
    with socket.create_connection(d.address) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        data, seconds = all_from(sock)
    expect(data.count(b"HTTP/1.1"), 1, "one answer, then the close")
    require(0.5 < seconds, seconds)


def test_a_connection_is_kept_for_many_requests(d):
    connection = connect(d.address)
    for _ in range(50):
        expect(call(d.address, "GET", "/health", connection=connection).status, 200)
        answer = call(d.address, "POST", COMPLETION, {"prompt": "a", "max_tokens": 1}, connection=connection)
        expect(answer.status, 200)
        refused = call(d.address, "POST", COMPLETION, {"prompt": 5}, connection=connection)
        expect(refused.status, 400, "a refused body does not break the connection")
    connection.close()


def test_too_many_connections_are_answered_503(d):
    socks = [socket.create_connection(d.address) for _ in range(CONNECTIONS_MAX)]
    try:
        for sock in socks:
            sock.sendall(b"GET /hea")
        with socket.create_connection(d.address) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            data, _seconds = all_from(sock)
            require(data.startswith(b"HTTP/1.1 503"), data[:100])
    finally:
        for sock in socks:
            sock.close()
    wait_until(lambda: reaches(d), "the daemon takes connections again", LATE_S_MAX, 0.05)
    serves(d)


def reaches(d):
    try:
        return d.call("GET", "/health").status == 200
    except OSError:
        return False


def test_a_client_that_does_not_read_is_dropped(d):
    """Its sequences pause when its unsent bytes pass the bound; others go on; its pages come back."""
    before = process_rss_bytes(d.pid)
    body = json.dumps({"prompt": "a", "max_tokens": 480, "ignore_eos": True, "stream": True, "logprobs": 20,
                       "n": 24, "temperature": 1}).encode()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(d.address)
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: d.metric("vllm:num_requests_running") > 0, "it runs", LATE_S_MAX)
        in_parallel(lambda i: serves(d), range(8))
        wait_until(lambda: d.metric("vllm:num_requests_running") == 0, "it is dropped", 3 * LATE_S_MAX, 0.05)
        expect(d.metric("vllm:kv_cache_usage_perc"), 0, "pages held")
        aborted = [v for k, v in d.metrics().items() if k.startswith("vllm:request_success_total") and "abort" in k]
        require(sum(aborted) >= 1, "it was not dropped but ended")
    growth = process_rss_bytes(d.pid) - before
    require(growth < 32 << 20, f"{growth >> 20} MiB more")
    serves(d)


def test_a_slow_stream_is_whole(d):
    """Read in small pieces with pauses below the timeout: nothing is lost or repeated."""
    fields = {"prompt": "a", "max_tokens": 400, "ignore_eos": True, "temperature": 0, "logprobs": 20}
    wanted = d.post(COMPLETION, {**fields, "return_token_ids": True})["choices"][0]["token_ids"]
    ids = []
    for count, event in enumerate(d.stream(COMPLETION, {**fields, "return_token_ids": True})):
        if count % 100 == 0:
            time.sleep(0.1)  # the slow reader
        ids += event["choices"][0].get("token_ids") or []
    expect(ids, wanted)


def main():
    cases = cases_of(globals())
    model = need(cases, vectors_path, "tiny", "llama_tied.gguf")
    with Daemon(model, *FLAGS) as d:
        tap = run_cases(cases, d)
        tap.case("fsck finds no fault after all this", lambda: expect(d.fsck(), []))
    tap.done()


if __name__ == "__main__":
    main()
