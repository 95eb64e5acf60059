#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_commands - the `kvasir` command against a real daemon, over TCP and over its unix socket.

test_commands.py [PART OF A NAME]. What it prints is compared with what the API says of the same."""
import json
import math
import os
import signal
import subprocess

from kvasir_test import (CALL_S_MAX, Daemon, Skip, cases_of, daemon_environment, die_with_parent, expect, model_path,
                         need, new_instance, note, program, require, run_cases, shm_names, temporary_directory,
                         vectors_path, wait_until)

GPL = "/usr/share/common-licenses/GPL-3"
PROMPT = "The capital of France is"


def kvasir(d, *arguments, stdin=b"", status=0, env=None):
    """Runs the command at the daemon; -> (stdout, stderr)"""
    environment = daemon_environment({"KVASIR_URL": "http://%s:%d" % d.address, **(env or {})})
    done = subprocess.run([program("kvasir"), *map(str, arguments)], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment, timeout=CALL_S_MAX, preexec_fn=die_with_parent)
    out, text = done.stdout.decode(), done.stderr.decode()
    if status is not None:
        expect(done.returncode, status, f"kvasir {arguments}: {text}")
    else:
        require(done.returncode > 0, f"kvasir {arguments} should fail: {out}")
    return out, text


def test_models_and_status(d):
    require(d.model in kvasir(d, "models")[0], "models")
    expect(json.loads(kvasir(d, "models", "--json")[0])["data"][0]["id"], d.model)
    require(d.model in kvasir(d, "status")[0], "status")
    json.loads(kvasir(d, "status", "--json")[0])


def test_complete_says_what_the_api_says(d):
    wanted = d.complete(PROMPT, temperature=0, max_tokens=12)["choices"][0]["text"]
    arguments = ("complete", "--temperature", 0, "--max-tokens", 12)
    require(wanted.strip() in kvasir(d, *arguments, PROMPT)[0], "an argument")
    require(wanted.strip() in kvasir(d, *arguments, stdin=PROMPT.encode())[0], "a pipe")
    require(wanted.strip() in kvasir(d, *arguments, "--uds", d.uds, PROMPT)[0], "a unix socket")
    whole = json.loads(kvasir(d, *arguments, "--json", PROMPT)[0])
    expect(whole["choices"][0]["text"], wanted, "--json")


def test_chat_says_what_the_api_says(d):
    wanted = d.chat("Name three colours.", temperature=0, max_tokens=12)["choices"][0]["message"]["content"]
    arguments = ("chat", "--temperature", 0, "--max-tokens", 12)
    require(wanted.strip() in kvasir(d, *arguments, "Name three colours.")[0], "an argument")
    require(wanted.strip() in kvasir(d, *arguments, stdin=b"Name three colours.")[0], "a pipe")
    turns = kvasir(d, *arguments, "--interactive", stdin=b"Name three colours.\nAnd one more?\n/quit\n")[0]
    require(wanted.strip() in turns, turns)


def test_bench_counts_what_it_asked_for(d):
    out = json.loads(kvasir(d, "bench", "--requests", 6, "--concurrency", 3, "--prompt-tokens", 40,
                            "--shared-tokens", 30, "--output-tokens", 8, "--ignore-eos", "--json")[0])
    expect((out["requests_ok"], out["requests_failed"], out["output_tokens"]), (6, 0, 48))
    require(out["ttft_ms"] and out["itl_ms"] and out["output_tokens_per_s"] > 0, out)
    table = kvasir(d, "bench", "--requests", 2, "--concurrency", 2, "--prompt-tokens", 8, "--output-tokens", 4)[0]
    require(len(table.splitlines()) > 4, table)


def test_fsck_reads_the_pool(d):
    require("faults   0" in kvasir(d, "fsck", "--instance", d.instance)[0], "faults")
    expect(json.loads(kvasir(d, "fsck", "--instance", d.instance, "--json")[0])["fault_count"], 0)
    kvasir(d, "fsck", "--instance", "nobody-has-this", status=69)
    kvasir(d, "fsck", "--instance", "../etc", status=None)


def test_errors_are_told_with_a_status(d):
    text = kvasir(d, "complete", "--url", "http://127.0.0.1:1", PROMPT, status=None)[1]
    require("127.0.0.1:1" in text, text)
    text = kvasir(d, "complete", "--model", "other", PROMPT, status=None)[1]
    require("other" in text, text)
    kvasir(d, "nothing", status=64)
    kvasir(d, "complete", "--nothing", status=64)


def test_serve_runs_the_daemon_in_the_foreground(_d):
    instance = new_instance()
    with temporary_directory() as folder:
        uds = os.path.join(folder, "s")
        child = subprocess.Popen([program("kvasir"), "serve", "--instance", instance, "--port", "0", "--uds", uds,
                                  "--worker-path", program("kvasir-worker"), model_path()],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                 env=daemon_environment(), preexec_fn=die_with_parent)
        try:
            wait_until(lambda: os.path.exists(uds) or child.poll() is not None, "its socket", CALL_S_MAX)
            expect(child.poll(), None, "it runs")
            child.send_signal(signal.SIGINT)
            text = child.communicate(timeout=CALL_S_MAX)[1].decode()
        finally:
            child.kill()
        expect(child.returncode, 0, text)
        expect(shm_names(instance), [], "left in /dev/shm")


def test_perplexity_is_the_mean_over_prompt_logprobs(d):
    if not os.path.exists(GPL):
        raise Skip(f"no {GPL}")
    with open(GPL) as file:
        text = file.read()
    ids = d.post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    scores = d.complete(ids[64:160], max_tokens=1, prompt_logprobs=0)["choices"][0]["prompt_logprobs"]
    values = [score[str(token)]["logprob"] for token, score in zip(ids[64:160], scores) if score]
    arguments = ("perplexity", "--json", "--context", 96, "--stride", 64)
    out = json.loads(kvasir(d, *arguments, "--skip", 1, "--windows", 2, GPL)[0])
    first = json.loads(kvasir(d, *arguments, "--skip", 1, "--windows", 1, "-", stdin=text.encode())[0])
    expect((out["tokens"], out["windows"], out["scored_tokens"]), (len(ids), 2, 190))
    second = 2 * out["mean_nll"] - first["mean_nll"]
    require(abs(second + sum(values) / 95) < 1e-6, f"{second} of the second window, {values}")
    require(abs(out["perplexity"] - math.exp(out["mean_nll"])) < 1e-9, out)
    half = json.loads(kvasir(d, *arguments, "--windows", 1, GPL)[0])
    expect((half["skip"], half["scored_tokens"]), (49, 47))
    require("window takes 512" in kvasir(d, "perplexity", "-", stdin=b"short", status=1)[1], "a short text")
    kvasir(d, "perplexity", status=64)
    kvasir(d, "perplexity", "/nowhere", status=1)


def test_perplexity_is_what_another_implementation_finds(d):
    """nll.json. Its tokenizer splits some blanks otherwise, which moves the windows by a few tokens."""
    with open(vectors_path("logits", "nll.json")) as file:
        reference = json.load(file)["smollm2-135m-instruct.q4_1/GPL-3"]
    if not os.path.exists(GPL):
        raise Skip(f"no {GPL}")
    out = json.loads(kvasir(d, "perplexity", "--json", "--context", reference["window"], "--skip", 1, "--windows",
                            reference["windows"], GPL)[0])
    expect(out["scored_tokens"], reference["positions"])
    off = out["mean_nll"] / reference["mean_nll"] - 1
    note(f"mean NLL {out['mean_nll']:.5f}, reference {reference['mean_nll']:.5f}, {100 * off:+.2f} %")
    require(abs(off) < 0.01, f"{100 * off:+.2f} %")


def test_every_subcommand_from_a_shell(d):
    """client_e2e.sh: what it prints, its signals and its status, as a shell sees them."""
    environment = daemon_environment({"KVASIR_URL": "http://%s:%d" % d.address, "KVASIR": program("kvasir"),
                                      "KVASIR_E2E_UDS": d.uds, "KVASIR_E2E_INSTANCE": d.instance,
                                      "KVASIR_E2E_MODEL": model_path()})
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "client_e2e.sh")
    done = subprocess.run(["sh", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=environment, timeout=CALL_S_MAX, preexec_fn=die_with_parent)
    text = done.stdout.decode()
    require(done.returncode == 0 and "not ok" not in text and text.count("\nok ") > 20, text)


def main():
    cases = cases_of(globals())
    model = need(cases, model_path)
    with temporary_directory() as folder:
        uds = os.path.join(folder, "kvasir.sock")
        with Daemon(model, "--uds", uds) as d:
            d.uds = uds
            d.model = d.get("/v1/models")["data"][0]["id"]
            tap = run_cases(cases, d)
        tap.done()


if __name__ == "__main__":
    main()
