#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_bad_input - what is wrong is refused precisely, quickly, and the daemon serves on.

test_bad_input.py [PART OF A NAME]. Requests: each numeric field outside its range and type, text that is no
JSON or no UTF-8, bodies that are too large or too deep, prompts that are too long. Starts: hostile and
truncated models, too little shared memory, ports and instances in use, wrong settings. Ranges are OpenAI's
and vLLM's; the hostile models are those of tests/data/gguf_hostile.h."""
import glob
import json
import os
import shutil
import socket
import subprocess
import threading
import time

from kvasir_test import (Daemon, Skip, build_dir, cases_of, daemon_environment, die_with_parent, expect,
                         model_path, new_instance, note, program, require, run_cases, sanitizer, shm_names,
                         temporary_directory, vectors_path)

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
REFUSAL_S_MAX = 0.05
TRIES = 4  # a busy machine may delay an answer: the best of so many counts
BODY_BYTES_MAX = 256 << 10
MODEL_LEN = 256
INT32_MAX = 2**31 - 1
RSS_BYTES_MAX = 100 << 20  # of a daemon that refuses a model of a few KiB
SPAWN_S_MAX = 30

MESSAGES = [{"role": "user", "content": "Hi"}]
BOTH = (CHAT, COMPLETION)

# field, routes, lowest, highest, whole numbers only
NUMBERS = [
    ("temperature", BOTH, 0, 100, False),
    ("top_p", BOTH, 1e-9, 1, False),
    ("min_p", BOTH, 0, 1, False),
    ("repetition_penalty", BOTH, 1e-3, 100, False),
    ("presence_penalty", BOTH, -2, 2, False),
    ("frequency_penalty", BOTH, -2, 2, False),
    ("top_k", BOTH, -1, INT32_MAX, True),
    ("max_tokens", BOTH, 1, INT32_MAX, True),
    ("max_completion_tokens", BOTH, 1, INT32_MAX, True),
    ("min_tokens", BOTH, 0, INT32_MAX, True),
    ("n", BOTH, 1, 128, True),
    ("priority", BOTH, -2**31, 2**31 - 1, True),
    ("prompt_logprobs", BOTH, 0, 20, True),
    ("logprobs", (COMPLETION,), 0, 20, True),
    ("top_logprobs", (CHAT,), 0, 20, True),
    ("seed", BOTH, -2**63, 2**63 - 1, True),
]
FLAGS = ["stream", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens", "echo",
         "return_token_ids", "return_tokens_as_token_ids"]
UNSUPPORTED = {
    "response_format": {"type": "json_object"}, "tools": [{"type": "function"}], "tool_choice": "auto",
    "best_of": 2, "suffix": "x", "use_beam_search": True, "guided_json": {}, "structured_outputs": {"json": {}},
    "bad_words": ["x"], "allowed_token_ids": [1], "truncate_prompt_tokens": 5, "logits_processors": ["x"],
    "prompt_embeds": "x", "functions": [{}], "length_penalty": 2,
}
HARMLESS = {"response_format": {"type": "text"}, "tools": [], "best_of": 1, "suffix": "", "priority": -3,
            "use_beam_search": False, "tool_choice": "none", "user": "u", "metadata": {"a": 1}, "store": False,
            "service_tier": "auto", "a field from the future": [1, {"b": None}]}


# ---- requests ----

def body_with(route, field, text):
    """A body that is right but for one field, whose value is `text` as it stands."""
    base = {"messages": MESSAGES} if route == CHAT else {"prompt": "Hi"}
    if field != "max_tokens" and field != "max_completion_tokens":
        base["max_tokens"] = 2
    if field == "top_logprobs":
        base["logprobs"] = True
    base.pop(field, None)
    return (json.dumps(base)[:-1] + f', "{field}": {text}}}').encode()


def refused(d, path, body, status, field=None, named=True):
    """The answer is an error with this status and field at fault, in a few milliseconds."""
    seconds = []
    for _ in range(TRIES):
        answer = d.call("POST", path, body)
        expect(answer.status, status, f"{body[:200]!r}: {answer.text[:300]}")
        seconds.append(answer.seconds)
        if answer.seconds <= REFUSAL_S_MAX:
            break
    error = answer.json["error"]
    expect(error["code"], status, "code in the body")
    require(error["message"] and "\n" not in error["message"], error)
    require(isinstance(error["type"], str), error)
    if named:
        expect(error["param"], field, f"{body[:200]!r}: {error['message']}")
    limit = REFUSAL_S_MAX * (20 if sanitizer() else 1)
    require(min(seconds) <= limit, f"{body[:200]!r}: {min(seconds):.3f} s to refuse it")


def serves(d):
    expect(d.complete("Hi", max_tokens=2, temperature=0, ignore_eos=True)["usage"]["completion_tokens"], 2)


def outside(lowest, highest, whole):
    """Texts of numbers outside [lowest, highest], and of things that are no such number."""
    step = 1 if whole else 1e-3
    candidates = [lowest - step, highest + step, lowest - 1, highest + 1, 2**31, -2**31, 2**63, -2**63, -2**65]
    # JSON numbers are doubles to the daemon, so -2**63 - 1 is -2**63
    texts = [repr(v) for v in candidates if not lowest <= float(v) <= highest]
    texts += ["1e400", "-1e400", '"1"', '""', "true", "false", "[]", "[1]", "{}"]
    if whole:
        texts += ["1.5", "1e-1", "0.99999"]
    return texts


def test_numbers_outside_their_range(d):
    for field, routes, lowest, highest, whole in NUMBERS:
        for route in routes:
            for text in outside(lowest, highest, whole):
                refused(d, route, body_with(route, field, text), 400, field)
            for text in ("NaN", "Infinity", "-Infinity", "+1", "01", ".5", "0x10", "1_000"):  # no JSON
                refused(d, route, body_with(route, field, text), 400, named=False)
        serves(d)


def test_numbers_inside_their_range(d):
    for field, routes, lowest, highest, whole in NUMBERS:
        for route in routes:
            values = [lowest, "null"] + ([] if field in ("max_tokens", "max_completion_tokens", "min_tokens", "n")
                                         else [highest if field != "seed" else 2**53])
            for value in values:
                answer = d.call("POST", route, body_with(route, field, value))
                expect(answer.status, 200, f"{route} {field} = {value}: {answer.text[:200]}")


def test_switches_of_a_wrong_type(d):
    for field in FLAGS:
        for route in BOTH:
            for text in ("1", "0", '"true"', "[]", "{}"):
                refused(d, route, body_with(route, field, text), 400, field)
    for text in ("true", "[]", "1"):
        refused(d, COMPLETION, b'{"prompt":"a","stream":true,"stream_options":%s}' % text.encode(), 400,
                "stream_options")
    refused(d, COMPLETION, b'{"prompt":"a","stream_options":{"include_usage":true}}', 400, "stream_options")
    refused(d, CHAT, body_with(CHAT, "logprobs", "5"), 400, "logprobs")
    serves(d)


def test_stops_and_biases(d):
    long_list = json.dumps(["x"] * 17)
    cases = {
        "stop": ["5", "true", "{}", "[1]", '["a", null]', '""', '[""]', long_list, json.dumps("x" * 257)],
        "stop_token_ids": ["5", '"5"', "{}", "[-1]", "[1.5]", '["1"]', "[null]", "[2147483648]", "[1e400]",
                           f"[{d.vocab}]", json.dumps([1] * 17)],
        "logit_bias": ["[]", "5", '"x"', '{"a": 1}', '{"-1": 1}', '{"1.5": 1}', '{"": 1}', '{"1": "1"}',
                       '{"1": 101}', '{"1": -101}', '{"1": 1e400}', '{"1": null}', '{" 1": 1}',
                       '{"%d": 1}' % d.vocab, '{"18446744073709551617": 1}',
                       json.dumps({str(i): 1 for i in range(1025)})],
        "model": ["5", "[]", "{}", "true"],
        "cache_salt": ["5", '""', json.dumps("x" * 1025)],
    }
    for field, texts in cases.items():
        for route in BOTH:
            for text in texts:
                refused(d, route, body_with(route, field, text), 400, field)
    serves(d)


def test_prompts_and_messages(d):
    prompts = ["5", "true", "{}", "[]", "[[]]", "[null]", '["a", 1]', "[1, \"a\"]", "[[1], \"a\"]", "[-1]",
               "[1.5]", f"[{d.vocab}]", "[2147483648]", "[1e400]", "[[1], [-1]]", '""', '["a", ""]', "null",
               json.dumps(["a"] * 129)]
    for text in prompts:
        refused(d, COMPLETION, body_with(COMPLETION, "prompt", text), 400, "prompt")
    refused(d, COMPLETION, b"{}", 400, "prompt")
    messages = ["5", "null", '"Hi"', "{}", "[]", "[5]", '["Hi"]', "[{}]", '[{"role": "user"}]',
                '[{"content": "Hi"}]', '[{"role": 5, "content": "Hi"}]', '[{"role": "user", "content": 5}]',
                '[{"role": "user", "content": [5]}]', '[{"role": "user", "content": [{"type": "text"}]}]',
                '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]',
                '[{"role": "user", "content": null}]', '[{"role": "", "content": "Hi"}]']
    for text in messages:
        refused(d, CHAT, body_with(CHAT, "messages", text), 400, "messages")
    refused(d, CHAT, b"{}", 400, "messages")
    serves(d)


def test_bodies_that_are_no_object(d):
    for body in (b"", b" ", b"5", b'"x"', b"[]", b"null", b"true", b"{} {}", b"{}x", b"\xef\xbb\xbf{}", b"\x00"):
        for route in (*BOTH, "/tokenize", "/detokenize"):
            refused(d, route, body, 400, named=False)


def test_bodies_that_are_no_json(d):
    paths = sorted(glob.glob(vectors_path("json") + "/n_*.json"))
    require(len(paths) > 150, f"{len(paths)} vectors")
    for path in paths:
        with open(path, "rb") as file:
            content = file.read()
        refused(d, COMPLETION, content, 400, named=False)
        refused(d, COMPLETION, b'{"prompt": "a", "x": ' + content + b"}", 400, named=False)
        refused(d, CHAT, content, 400, named=False)
    serves(d)


def test_other_json_never_crashes(d):
    """y_ as the value of an unknown field is accepted, but for what the parser behind the check of grammar would
    silently change (NUL in a string, a number of over 63 bytes); i_ may go either way."""
    changed = {"y_number_double_close_to_zero.json", "y_object_escaped_null_in_key.json",
               "y_string_null_escape.json"}
    for path in sorted(glob.glob(vectors_path("json") + "/[yi]_*.json")):
        with open(path, "rb") as file:
            content = file.read().strip()
        body = b'{"max_tokens": 1, "temperature": 0, "prompt": "a", "x": ' + content + b"}"
        status = d.call("POST", COMPLETION, body).status
        name = os.path.basename(path)
        wanted = (400,) if name in changed else (200,) if name.startswith("y_") else (200, 400)
        require(status in wanted, f"{name}: {status}")


def test_depth_is_bounded_at_64(d):
    for depth, status in ((63, 200), (64, 200), (65, 400), (1000, 400), (100000, 400)):
        nested = b"[" * (depth - 1) + b"]" * (depth - 1)
        body = b'{"prompt": "a", "max_tokens": 1, "x": ' + nested + b"}"
        expect(d.call("POST", COMPLETION, body).status, status, f"depth {depth}")
    refused(d, COMPLETION, b'{"a":' * 65 + b"1" + b"}" * 65, 400, named=False)


def test_invalid_utf8(d):
    for bad in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"a\xf0\x9f\x98"):
        refused(d, COMPLETION, b'{"prompt": "' + bad + b'"}', 400, named=False)
        refused(d, COMPLETION, b'{"prompt": "a", "' + bad + b'": 1}', 400, named=False)
        refused(d, CHAT, b'{"messages": [{"role": "user", "content": "' + bad + b'"}]}', 400, named=False)
        refused(d, "/tokenize", b'{"prompt": "' + bad + b'"}', 400, named=False)
    for escaped in (b"\\ud800", b"\\udc00", b"\\ud800\\u0041"):
        status = d.call("POST", COMPLETION, b'{"prompt": "%s", "max_tokens": 1}' % escaped).status
        require(status in (200, 400), f"{escaped}: {status}")
    serves(d)


def test_bodies_over_the_limit(d):
    fits = {"prompt": "Hi", "max_tokens": 1, "x": ""}
    fits["x"] = "x" * (BODY_BYTES_MAX - len(json.dumps(fits)))
    expect(len(json.dumps(fits)), BODY_BYTES_MAX)
    expect(d.call("POST", COMPLETION, fits).status, 200, "exactly the limit")
    refused(d, COMPLETION, json.dumps({**fits, "x": fits["x"] + "x"}).encode(), 413, named=False)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\n"
    for rest in (b"Content-Length: 99999999999\r\n\r\n", b"Content-Length: 99999999999999999\r\n\r\n",
                 b"Transfer-Encoding: chunked\r\n\r\n4000000\r\n"):
        with socket.create_connection(d.address, 10) as sock:
            sock.sendall(head + rest)
            require(sock.recv(100).startswith(b"HTTP/1.1 413"), rest)
    serves(d)


def test_prompts_longer_than_the_context(d):
    text = "word " * (BODY_BYTES_MAX // 6)
    refused(d, COMPLETION, json.dumps({"prompt": text}).encode(), 400, "prompt")
    refused(d, COMPLETION, json.dumps({"prompt": [1] * MODEL_LEN}).encode(), 400, "prompt")
    refused(d, COMPLETION, json.dumps({"prompt": [[1], [1] * (MODEL_LEN + 1)]}).encode(), 400, "prompt")
    refused(d, CHAT, json.dumps({"messages": [{"role": "user", "content": text}]}).encode(), 400, "messages")
    refused(d, COMPLETION, json.dumps({"prompt": [1] * 250, "max_tokens": 7}).encode(), 400, "max_tokens")
    expect(d.call("POST", COMPLETION, {"prompt": [5] * 250, "max_tokens": 6}).status, 200, "it just fits")
    expect(d.call("POST", COMPLETION, {"prompt": [5] * (MODEL_LEN - 1), "max_tokens": 1}).status, 200, "and")
    refused(d, COMPLETION, json.dumps({"prompt": "a", "max_tokens": MODEL_LEN}).encode(), 400, "max_tokens")
    serves(d)


def test_unknown_models(d):
    for route in BOTH:
        for name in ("other", "", d.model + "x", d.model[:-1], "x" * 100000, "%s%n", "../x"):
            refused(d, route, body_with(route, "model", json.dumps(name)), 404, "model")


def test_unknown_fields_are_accepted_unsupported_ones_refused(d):
    for field, value in UNSUPPORTED.items():
        for route in BOTH:
            refused(d, route, body_with(route, field, json.dumps(value)), 400, field)
    for field, value in HARMLESS.items():
        for route in BOTH:
            answer = d.call("POST", route, body_with(route, field, json.dumps(value)))
            expect(answer.status, 200, f"{field}: {answer.text[:200]}")
    refused(d, COMPLETION, b'{"prompt":"a","echo":true,"stream":true}', 400, "echo")
    refused(d, CHAT, body_with(CHAT, "echo", "true"), 400, "echo")
    refused(d, COMPLETION, b'{"prompt":"a","min_tokens":5,"max_tokens":4}', 400, "min_tokens")


def test_tokenize_and_detokenize_bodies(d):
    for text in ("{}", '{"prompt": 5}', '{"prompt": ["a"]}', '{"prompt": null}'):
        refused(d, "/tokenize", text.encode(), 400, "prompt")
    refused(d, "/tokenize", b'{"messages": []}', 400, "messages")
    refused(d, "/tokenize", b'{"prompt": "a", "add_special_tokens": 1}', 400, "add_special_tokens")
    refused(d, "/tokenize", b'{"prompt": "a", "model": "other"}', 404, "model")
    for text in ("5", '"x"', "[-1]", "[1.5]", '["1"]', "[null]", "[1e400]", f"[{d.vocab}]", "[4294967297]"):
        refused(d, "/detokenize", b'{"tokens": %s}' % text.encode(), 400, "tokens")
    refused(d, "/detokenize", b"{}", 400, "tokens")


def test_http_that_is_wrong(d):
    get = b"GET /health HTTP/1.1\r\nHost: h\r\n"
    wrong = [
        (b"\x16\x03\x01\x02\x00", 400), (b"GET /health HTTP/9.9\r\nHost: h\r\n\r\n", 505),
        (b"GET /health HTTP/1.1\r\n\r\n", 400), (get + b"Host: i\r\n\r\n", 400),
        (get + b"A b: c\r\n\r\n", 400), (get + b"A: \x00\r\n\r\n", 400),
        (get + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (get + b"Content-Length: 18446744073709551617\r\n\r\n", 400),
        (get + b"Content-Length: -1\r\n\r\n", 400), (get + b"Content-Length: 1x\r\n\r\n", 400),
        (get + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (get + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (get + b"A: " + b"x" * 70000 + b"\r\n\r\n", 431), (get + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (get + b"Expect: tea\r\n\r\n", 417), (b"BREW /health HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"POST /tokenize HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ]
    for data, status in wrong:
        with socket.create_connection(d.address, 10) as sock:
            sock.sendall(data)
            got = sock.recv(100)
            require(got.startswith(b"HTTP/1.1 %d" % status), f"{data[:80]!r}: {got[:60]!r}, wanted {status}")
    serves(d)


# ---- starts that must fail ----

class Ended:
    """How a kvasird that had to end by itself did: status, stderr, largest resident size."""

    def __init__(self, *arguments, env=None, prefix=(), instance=None, port=0, worker=None):
        self.instance = instance or new_instance()
        command = [*prefix, program("kvasird"), "--instance", self.instance, "--port", str(port),
                   "--worker-path", worker or program("kvasir-worker"), *map(str, arguments)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, env=daemon_environment(env),
                                 preexec_fn=die_with_parent)
        overdue = threading.Timer(SPAWN_S_MAX, child.kill)
        overdue.start()
        self.text = child.stderr.read().decode(errors="replace")
        child.stderr.close()
        _pid, status, usage = os.wait4(child.pid, 0)
        child.returncode = self.status = os.waitstatus_to_exitcode(status)
        overdue.cancel()
        self.rss_bytes = usage.ru_maxrss * 1024

    def check(self, what):
        """Every failed start: no signal, one line, nothing left."""
        require(self.status > 0, f"{what}: exit status {self.status}; stderr:\n{self.text}")
        expect(self.text.count("\n"), 1, f"{what}: lines; stderr:\n{self.text}")
        require(not shm_names(self.instance), f"{what}: left {shm_names(self.instance)}")


def fails(status, words, *arguments, **options):
    """Ends with this status (None: any but 0) and one line that holds each of the words."""
    ended = Ended(*arguments, **options)
    ended.check(arguments)
    require(status in (None, ended.status), f"{arguments}: {ended.status}, wanted {status}: {ended.text}")
    for word in words:
        require(word in ended.text, f"{arguments}: {ended.text!r} does not say {word!r}")
    return ended


def hostile_tool():
    for folder in ("tests", "tests/data", "."):
        path = os.path.join(build_dir(), folder, "hostile_gguf")
        if os.access(path, os.X_OK):
            return path
    raise Skip("hostile_gguf is not built")


def test_hostile_models(_d):
    """The catalogue says in each name which stage must refuse it; for us only that someone does."""
    tool = hostile_tool()
    with temporary_directory() as folder:
        names = subprocess.run([tool, folder], stdout=subprocess.PIPE, check=True).stdout.decode().split()
        require(len(names) > 150, f"{len(names)} models")
        failures, rss_bytes, start = [], 0, time.monotonic()
        for name in names:
            if name == "sound":
                continue
            try:
                ended = fails(65, [], os.path.join(folder, name + ".gguf"))
                rss_bytes = max(rss_bytes, ended.rss_bytes)
            except AssertionError as failure:
                failures.append(f"{name}: {failure}")
        note(f"{len(names) - 1} hostile models in {time.monotonic() - start:.1f} s, at most "
             f"{rss_bytes >> 20} MiB resident")
        require(not failures, f"{len(failures)} failures\n" + "\n".join(failures))
        require(sanitizer() or rss_bytes <= RSS_BYTES_MAX, f"{rss_bytes >> 20} MiB resident")


def test_truncated_model(_d):
    with temporary_directory() as folder:
        path = os.path.join(folder, "truncated.gguf")
        shutil.copyfile(model_path(), path)
        size = os.path.getsize(path)
        places = [size - 1, size - 4096] + [size * i // 18 for i in range(17, 0, -1)] + [24, 3, 0]
        for place in places:
            os.truncate(path, place)
            fails(65, [], path)


def test_models_that_are_no_models(_d):
    with temporary_directory() as folder:
        fails(None, ["No such file"], os.path.join(folder, "nowhere.gguf"))
        fails(None, [], folder)
        os.mkfifo(os.path.join(folder, "pipe.gguf"))
        fails(None, [], os.path.join(folder, "pipe.gguf"))
        fails(None, [], "/dev/zero")


def test_too_little_shared_memory(_d):
    room = os.statvfs("/dev/shm")
    more = room.f_blocks * room.f_frsize + (1 << 30)
    fails(71, ["need", "have", "MiB", "/dev/shm"], tiny_model(), "--kv-cache-memory-bytes", more)
    small = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none /dev/shm && exec "$0" "$@"']
    if subprocess.run([*small, "true"], stderr=subprocess.DEVNULL).returncode:
        raise Skip("no mount namespace of our own here: only the limit by size was tried")
    fails(71, ["need", "have", "MiB", "/dev/shm"], tiny_model(), "--kv-cache-memory-bytes", "32M", prefix=small)


def test_port_in_use(_d):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        fails(None, ["in use", str(port)], tiny_model(), port=port)


def test_two_daemons_of_one_instance(d):
    before = shm_names(d.instance)
    ended = Ended(tiny_model(), instance=d.instance)
    expect((ended.status, ended.text.count("\n")), (75, 1), ended.text)
    require(str(d.pid) in ended.text, f"the holder is not named: {ended.text}")
    expect(shm_names(d.instance), before, "names")
    serves(d)


def test_wrong_settings(_d):
    model = tiny_model()
    fails(64, ["no model"])
    fails(64, ["max-num-seqs"], model, "--max-num-seq", 5)
    fails(64, ["port"], model, port=65536)
    for value in (0, -1, "many", "", "1e400", 2**31, 2**63, -2**63):
        fails(64, ["max-num-seqs"], model, f"--max-num-seqs={value}")
    fails(78, ["block-size"], model, "--block-size", 32)
    fails(78, ["API key"], model, "--host", "0.0.0.0")
    fails(78, ["API key"], model, "--host", "::")
    fails(78, ["max-model-len"], model, "--max-model-len", 1 << 20)
    fails(78, ["max-num-batched-tokens"], model, "--max-num-batched-tokens", 4)
    fails(78, ["KVASIR_MAX_NUM_SEQS"], model, env={"KVASIR_MAX_NUM_SEQS": "x"})
    fails(78, ["context"], model, "--max-model-len", 1)
    fails(78, ["no list of CPUs"], model, "--cpus", "0-")
    fails(78, ["node 9999"], model, "--cpus", "node:9999")
    fails(78, ["cache is too small"], model, "--kv-cache-memory-bytes", 1)


def test_worker_that_cannot_start(_d):
    with temporary_directory() as folder:
        path = os.path.join(folder, "kvasir-worker")
        fails(78, ["worker"], tiny_model(), worker=path)
        with open(path, "w") as file:
            file.write("#!/bin/sh\nexit 3\n")
        os.chmod(path, 0o755)
        fails(None, ["status 3"], tiny_model(), worker=path)


def tiny_model():
    return vectors_path("tiny", "llama_tied.gguf")


def main():
    try:
        model = model_path()
    except Skip:
        model = tiny_model()
    with Daemon(model, "--max-model-len", MODEL_LEN, "--max-body-bytes", BODY_BYTES_MAX) as d:
        d.model = d.get("/v1/models")["data"][0]["id"]
        d.vocab = 49152 if "SmolLM2" in d.model else 512
        tap = run_cases(cases_of(globals()), d)
        tap.case("the daemon serves on after all this", serves, d)
        tap.case("fsck finds no fault", lambda: expect(d.fsck(), []))
    tap.done()


if __name__ == "__main__":
    main()
