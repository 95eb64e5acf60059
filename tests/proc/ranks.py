#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""ranks - a model split over ranks: the same bits for any number of them, and no fault of any process costs a stream.

ranks.py [--kills 8] [--streams 8] [--tokens 60] [--ranks 2] [--most 4] [--idle SECONDS] [--models FILE...] [--long]
[--seed N].
Streams with log-probabilities run with 1, 2, .. `most` ranks and must be equal to the last digit, also when the cache is
warm; likewise, of the tiny models and of each of --models, prompts of token ids that begin alike and are computed in small
chunks, also with KVASIR_DIST=mpi. Then, with `ranks` ranks, they run while a rank or mpirun is killed (SIGKILL), stopped
(SIGSTOP) or held by a debugger. All must end complete and equal, and afterwards no process, directory or segment is left."""
import argparse
import ctypes
import os
import random
import signal
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kill_worker import PROMPTS, RESTART_S_MAX, Watch, attempt  # noqa: E402
from kvasir_test import (Daemon, Skip, Streamed, Tap, build_dir, in_parallel, model_path, note,  # noqa: E402
                         process_children, process_cpu_s, process_is_alive, vectors_path, wait_until)

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 17, 0x4206, 0x4207, 0x40000000
KINDS = ("kill a rank", "stop a rank", "kill mpirun", "stop mpirun", "hang a rank")
TINY = {"llama_tied": (1, 4), "llama_untied": (1, 2)}  # 2 KV heads and 1, and ranks of the short form
CHUNK = 32  # tokens of a step
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
runtime = tempfile.TemporaryDirectory(prefix="kvasir-ranks-")


def mpi_is_built():
    with open(os.path.join(build_dir(), "config.h")) as file:
        return "#define HAVE_MPI 1" in file.read()


def environment(consent=True, dist=""):
    env = {"KVASIR_DIST": dist, "XDG_RUNTIME_DIR": runtime.name, "RUNTIME_DIRECTORY": "", "OMPI_ALLOW_RUN_AS_ROOT": "",
           "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": ""}
    if consent:
        env.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    return env


def daemon(model, ranks, *flags, **options):
    return Daemon(model, "--tensor-parallel-size", ranks, "--kv-cache-memory-bytes", "256M", *flags,
                  env=environment(), **options)


def run_streams(d, options, watch):
    """All streams at once; -> per stream its finish reason, ids, text and log-probabilities."""
    def run(i):
        events = []
        body = {"prompt": PROMPTS[i % len(PROMPTS)], "max_tokens": options.tokens, "temperature": 0, "logprobs": 3,
                "ignore_eos": True, "return_token_ids": True}
        for event in d.stream("/v1/completions", body):
            events.append(event)
            watch.token()
        stream = Streamed(events)
        logprobs = [choice.get("logprobs") for event in events for choice in event.get("choices", ())]
        flat = [[pair for part in logprobs if part for pair in part[name]]
                for name in ("tokens", "token_logprobs", "top_logprobs")]
        assert stream.finish == "length" and len(stream.ids) == options.tokens, (stream.finish, len(stream.ids))
        return stream.ids, stream.text, flat

    return in_parallel(run, range(options.streams))


def group_of(d):
    """(mpirun, [ranks]) of a group that is complete, or None."""
    mpirun = d.worker_pid()
    ranks = [pid for pid in process_children(mpirun) if process_is_alive(pid)] if mpirun else []
    return (mpirun, ranks) if len(ranks) >= 2 else None


def check_mates(d, ranks):
    """Every rank has mapped the weights of all: it takes pieces of what the others compute."""
    _, pids = group_of(d)
    mapped = []
    for pid in pids:
        with open(f"/proc/{pid}/maps", encoding="ascii") as maps:
            mapped.append({line.split()[5] for line in maps if "/kvasir-weights." in line})
    assert all(names == mapped[0] and len(names) == ranks for names in mapped), mapped


def check_counts(model, options):
    """-> the streams of one rank."""
    wanted = None
    for ranks in range(1, options.most + 1):
        with daemon(model, ranks) as d:
            cold = run_streams(d, options, Watch())
            warm = run_streams(d, options, Watch())
            assert d.fsck() == [], d.fsck()
            if ranks > 1:
                check_mates(d, ranks)
        wanted = wanted or cold
        for i, (one, other, first) in enumerate(zip(cold, warm, wanted)):
            assert one == first, f"{ranks} ranks, stream {i}: {one} for {first}"
            assert other == first, f"{ranks} ranks, stream {i}, cached: {other} for {first}"
        note(f"{ranks} rank(s): {options.streams} streams of {options.tokens} tokens are those of one, cold and warm")
    options.wanted = wanted


def prompts_of_ids(seed, length):
    """Three prompts of token ids; the second begins as the first, the third is the first."""
    rng = random.Random(seed)
    first = [rng.randrange(3, 250) for _ in range(length)]
    return [first, first[:length * 2 // 3] + [rng.randrange(3, 250) for _ in range(length // 3)], first]


def answers_of(d, length, tokens):
    """-> (ids and log-probabilities of each prompt's answer, its cached tokens)"""
    answers, cached = [], []
    for prompt in prompts_of_ids(7, length):
        answer = d.post("/v1/completions", {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "logprobs": 5,
                                            "ignore_eos": True, "return_token_ids": True})
        answers.append((answer["choices"][0]["token_ids"], answer["choices"][0]["logprobs"]))
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    return answers, cached


def check_shape(model, counts, length, tokens, dist="", wanted=None, then=None):
    """These numbers of ranks, with chunks of a prompt and hits of its beginning. then: done with each daemon."""
    for ranks in counts:
        with Daemon(model, "--tensor-parallel-size", ranks, "--kv-cache-memory-bytes", "64M", "--max-model-len", length + 64,
                   "--max-num-batched-tokens", CHUNK, "--max-num-seqs", 4, env=environment(dist=dist)) as d:
            answers, cached = answers_of(d, length, tokens)
            assert d.fsck() == [], d.fsck()
            if then:
                then(d)
        assert cached[0] == 0 and cached[1] > 0 and cached[2] > cached[1], cached
        assert len(answers[0][0]) == tokens and answers[0] == answers[2], (ranks, answers)
        wanted = wanted or answers
        assert answers == wanted, f"{ranks} ranks: {answers} for {wanted}"
    note(f"{os.path.basename(model)}: the same bits with {', '.join(map(str, counts))} ranks{dist and ' over ' + dist}, "
         f"{length} tokens in chunks of {CHUNK}, {cached[1]} and {cached[2]} of them cached")
    return wanted


def check_shapes(options):
    for name, counts in TINY.items():
        check_shape(vectors_path("tiny", name + ".gguf"), range(1, options.most + 1) if options.long else counts, 90, 12)
    for model in options.models:
        check_shape(model, (1, 2, 4), 90, 6)


def check_mpi(options):
    """Every rank as if on a host of its own: nothing but messages of MPI between them."""
    model = vectors_path("tiny", "llama_tied.gguf")
    wanted = check_shape(model, (1,), 90, 12)
    check_shape(model, (2,), 90, 12, "mpi", wanted, lambda d: check_idle(d, options, 0.02))  # its naps still grow
    check_shape(model, (3,), 90, 12, "mpi", wanted)


class Faults:
    def __init__(self, d, options):
        self.d, self.random, self.options = d, random.Random(options.seed), options
        self.noticed, self.back = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}

    def count(self):
        return sum(map(len, self.noticed.values()))

    def strike(self, kind, group):
        """-> the process that the fault struck, None where it could not."""
        pid = group[0] if "mpirun" in kind else self.random.choice(group[1])
        if kind.startswith("hang"):
            if libc.ptrace(PTRACE_SEIZE, pid, None, None) < 0:
                return None
            libc.ptrace(PTRACE_INTERRUPT, pid, None, None)
        else:
            os.kill(pid, signal.SIGKILL if kind.startswith("kill") else signal.SIGSTOP)
        return pid

    def once(self, watch, running):
        if not watch.wait_count(watch.count + self.random.randrange(1, 60), running):
            return
        with watch.changed:
            watch.changed.wait(self.random.random() * 0.01)
        group = wait_until(lambda: group_of(self.d) or not running(), "a group", RESTART_S_MAX)
        kind = self.random.choice(KINDS)
        start = time.monotonic()
        pid = self.strike(kind, group) if group is not True else None
        if pid is None:
            return
        if not kind.startswith("kill"):
            wait_until(lambda: not process_is_alive(group[0]) or not running(), "mpirun is ended", RESTART_S_MAX)
        noticed = time.monotonic() - start
        if kind.startswith("hang") and process_is_alive(group[0]) and not running():
            os.waitpid(pid, WALL)  # behind the last token nothing waits for it
            libc.ptrace(PTRACE_DETACH, pid, None, None)
            return
        if kind.startswith("hang"):
            wait_until(lambda: os.waitpid(pid, WALL | os.WNOHANG)[0] == 0 or not process_is_alive(pid), "reaped")
        for one in (group[0], *group[1]):
            wait_until(lambda: not process_is_alive(one), f"{kind}: process {one} is gone", RESTART_S_MAX)
        gone = time.monotonic()
        came = watch.count
        if watch.wait_count(came + 1, running):
            self.noticed[kind].append(noticed)
            self.back[kind].append(time.monotonic() - (start if kind.startswith("kill") else gone))

    def round(self):
        watch, result = Watch(), []
        thread = threading.Thread(
            target=lambda: result.append(attempt(run_streams, self.d, self.options, watch)))
        thread.start()
        while thread.is_alive():
            if self.count() < self.options.kills:
                self.once(watch, thread.is_alive)
            thread.join(0.05)
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]


def check_faults(d, options):
    faults, rounds = Faults(d, options), 0
    while faults.count() < options.kills:
        for i, (stream, wanted) in enumerate(zip(faults.round(), options.wanted)):
            assert stream == wanted, f"stream {i}, round {rounds}: {stream} for {wanted}"
        rounds += 1
    for kind in KINDS:
        noticed, back = sorted(faults.noticed[kind]), sorted(faults.back[kind])
        if noticed:
            note(f"{kind}: {len(noticed)} x, noticed after {noticed[len(noticed) // 2]:.3f} s, worst {noticed[-1]:.3f}; "
                 f"next token {back[len(back) // 2]:.3f} s after the death, worst {back[-1]:.3f}")
    note(f"{faults.count()} faults in {rounds} rounds, seed {options.seed}")
    for name in ("num_requests_running", "num_requests_waiting"):
        assert d.metric("vllm:" + name) == 0, name
    assert d.fsck() == [], d.fsck()


def check_idle(d, options, most=0.01):
    pids = [d.pid, *(lambda group: (group[0], *group[1]))(group_of(d))]
    used, start = sum(map(process_cpu_s, pids)), time.monotonic()
    time.sleep(options.idle)  # what is measured is time in which nothing happens
    used, taken = sum(map(process_cpu_s, pids)) - used, time.monotonic() - start
    note(f"{len(pids)} processes idle for {taken:.0f} s: {100 * used / taken:.2f} % of a core")
    assert used / taken < most, f"{100 * used / taken:.2f} %"


def check_adoption(model, options):
    """The daemon dies with its ranks; the next one finds the pages of all of them."""
    first = daemon(model, options.ranks)
    prompt = {"prompt": PROMPTS[7], "max_tokens": 16, "temperature": 0}
    wanted = first.post("/v1/completions", prompt)["choices"][0]["text"]
    group = group_of(first)
    first.kill()
    for pid in (group[0], *group[1]):
        wait_until(lambda: not process_is_alive(pid), f"process {pid} dies with its daemon")
    with daemon(model, options.ranks, instance=first.instance) as d:
        answer = d.post("/v1/completions", prompt)
        assert answer["choices"][0]["text"] == wanted
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached > 16, f"{cached} tokens cached"


def check_refusals(model, options):
    for flags, env, line in (
            (["--tensor-parallel-size", "2"], environment(dist="shm"), r"KVASIR_DIST=shm: "),
            (["--tensor-parallel-size", "64"], environment(), r"64 ranks: this model has 9 query heads"),
            (["--tensor-parallel-size", "2", "--cache-file", "/tmp/none"], environment(), r"cache-file: not built for"),
            (["--tensor-parallel-size", "2"], environment(consent=False), r"OMPI_ALLOW_RUN_AS_ROOT=1")):
        if "ROOT" in line and os.geteuid() != 0:
            continue
        d = Daemon(model, *flags, env=env, wait=False)
        status = d.wait_exit()
        assert status == 78, (flags, status, d.lines)
        assert any(__import__("re").search(line, text) for text in d.lines), d.lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--most", type=int, default=4)
    parser.add_argument("--idle", type=float, default=3)
    parser.add_argument("--models", nargs="*", default=[], help="more of them, with 1, 2 and 4 ranks")
    parser.add_argument("--long", action="store_true", help="tiny models with 1, 2, .. `most` ranks")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("KVASIR_SEED") or time.time_ns() % 10**9))
    options = parser.parse_args()
    tap = Tap()
    try:
        model = model_path()
        if not mpi_is_built():
            raise Skip("this build has no MPI")
    except Skip as reason:
        tap.skip("ranks", reason)
        tap.done()
    note(f"seed {options.seed}")
    tap.case("what cannot be is refused in one line", check_refusals, model, options)
    tap.case("models of other shapes have the same bits too", check_shapes, options)
    tap.case("ranks that send messages have the same bits and sleep too", check_mpi, options)
    if tap.case("any number of ranks gives the same bits", check_counts, model, options):
        d = daemon(model, options.ranks)
        tap.case("streams survive faults of any process", check_faults, d, options)
        tap.case("idle ranks use no core", check_idle, d, options)
        tap.case("a clean stop leaves nothing", d.stop)
        tap.case("pages of all ranks outlive the daemon", check_adoption, model, options)
    left = os.listdir(runtime.name)
    tap.case("no directory is left", lambda: (_ for _ in ()).throw(AssertionError(left)) if left else None)
    tap.done()


if __name__ == "__main__":
    main()
