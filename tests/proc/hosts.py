#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hosts - ranks on several hosts: the bits of one, through a cut cable and deaths on either side.

hosts.py [--streams 3] [--tokens 40] [--long] [--delays 0.5 5]. Two hosts are made of namespaces (two_hosts.py; as root, else
all is skipped). Prompts that begin alike, in small chunks, and streams with log-probabilities must be equal to those of one
rank on one host, to the last digit. Then streams run while the cable is cut and joined again, the further host's ranks are
killed, its agent dies with all memory, and the daemon dies. --long: also tokens per second beside the round trip, of the real
model."""
import argparse
import os
import re
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kill_worker import PROMPTS, RESTART_S_MAX, Watch  # noqa: E402
from kvasir_test import (Daemon, Skip, Tap, model_path, new_instance, note, process_is_alive,  # noqa: E402
                         vectors_path, wait_until)
from ranks import CHUNK, answers_of, mpi_is_built, run_streams  # noqa: E402
from two_hosts import TwoHosts  # noqa: E402

MEMORY = ("--kv-cache-memory-bytes", "256M")
SMALL = ("--kv-cache-memory-bytes", "16M", "--max-model-len", 160, "--max-num-batched-tokens", CHUNK, "--max-num-seqs", 4)


def check_bits(two, options):
    for name, ranks, hosts in (("llama_tied", 2, "kva,kvb"), ("llama_tied", 4, "kva:1,kvb:3"), ("llama_untied", 2, "kva,kvb")):
        model = vectors_path("tiny", name + ".gguf")
        with Daemon(model, *SMALL) as d:
            wanted = answers_of(d, 90, 12)
        instance = new_instance()
        with two.agent(instance), two.daemon(model, *SMALL, ranks=ranks, hosts=hosts, instance=instance) as d:
            got = answers_of(d, 90, 12)
            assert d.fsck() == [], d.fsck()
        assert got == wanted, f"{name}, {hosts}: {got} for {wanted}"
        assert got[1][0] == 0 and got[1][2] > got[1][1] > 0, got[1]
        assert two.a.left() == [] and two.b.left() == [], (two.a.left(), two.b.left())
        note(f"{name}: {ranks} ranks on {hosts} have the bits of one, {got[1][1]} and {got[1][2]} tokens cached")


def refusal(two, line, model, *flags, agent=(), status=78, **options):
    instance = new_instance()
    agents = [two.agent(instance, *agent)] if agent is not None else []
    d = two.daemon(model, *flags, instance=instance, wait=False, **options)
    try:
        got = d.wait_exit()
    finally:
        d.kill()
    for one in agents:
        one.stop()
    folder = two.b.path(f"/tmp/kvasir-{instance}-ranks.0")
    if not agents and os.path.isdir(folder):
        os.rmdir(folder)  # Open MPI's, empty: there was no agent to sweep
    assert got == status and any(re.search(line, text) for text in d.lines), (line, got, d.lines)


def check_refusals(two, options):
    model = vectors_path("tiny", "llama_tied.gguf")
    refusal(two, r"hosts: kva is named twice", model, hosts="kva,kva", agent=None)
    refusal(two, r"hosts: 3 of them for 2 ranks", model, hosts="kva,kvb,kvc", agent=None)
    refusal(two, r"hosts: not built for data-parallel-size 2", model, "--data-parallel-size", 2, agent=None)
    refusal(two, r"kvb: no kvasird --agent of instance", model, agent=None)
    refusal(two, r"hosts begins with the daemon's own host", model, hosts="kvb,kva", agent=None)
    refusal(two, r"mpirun started no rank .* can it reach every host of kva:1,nowhere:1", model, hosts="kva,nowhere", agent=None)
    own = os.path.join(two.folder.name, "model.gguf")
    other = vectors_path("tiny", "llama_untied.gguf")
    with open(model, "rb") as file, open(own, "wb") as copy:
        copy.write(file.read())
    two.b.run("mount", "--bind", other, own)
    refusal(two, r"kvb: .* is not the file that the daemon read", own, status=65)
    two.b.run("umount", own)
    instance = new_instance()
    with two.agent(instance):
        try:
            two.agent(instance)
        except AssertionError as failure:
            assert "is held by process" in str(failure), failure
        else:
            raise AssertionError("two agents of one instance")
    assert two.a.left() == [] and two.b.left() == [], (two.a.left(), two.b.left())


class Rig:
    """A daemon and an agent under streams whose answers are known."""

    def __init__(self, two, options):
        self.two, self.options, self.instance = two, options, new_instance()
        self.agent = two.agent(self.instance)
        self.d = self.start()

    def start(self):
        return self.two.daemon(self.options.model, *MEMORY, instance=self.instance)

    def restarts(self):
        return sum("is back" in line for line in self.d.lines)

    def streams(self, fault=None):
        """Streams; amidst them fault() is called once. All must be those of one rank."""
        watch, result = Watch(), []

        def go():
            try:
                result.append(run_streams(self.d, self.options, watch))
            except BaseException as failure:  # noqa: B902, raised again below
                result.append(failure)

        thread = threading.Thread(target=go)
        thread.start()
        if watch.wait_count(self.options.streams * self.options.tokens // 4, thread.is_alive) and fault:
            fault()
        struck = time.monotonic()
        if fault:
            restarts = self.restarts()
            wait_until(lambda: self.restarts() > restarts or not thread.is_alive(), "the ranks are back", RESTART_S_MAX)
        watch.wait_count(watch.count + 1, thread.is_alive)
        self.back_s = time.monotonic() - struck
        thread.join()
        if isinstance(result[0], BaseException):
            raise result[0]
        for i, (stream, wanted) in enumerate(zip(result[0], self.options.wanted)):
            assert stream == wanted, f"stream {i}: {stream} for {wanted}"


def check_streams(rig):
    rig.streams()
    rig.streams()
    assert rig.d.fsck() == [], rig.d.fsck()


def check_cut(rig):
    before = rig.restarts()

    def fault():
        pids = rig.two.b.processes("kvasir-worker")
        rig.two.cut()
        start = time.monotonic()
        rig.d.wait_line("the worker died")
        noticed = time.monotonic() - start
        for pid in pids:
            wait_until(lambda: not process_is_alive(pid), "the ranks behind the cut end", RESTART_S_MAX)
        note(f"a cut cable: noticed by the daemon after {noticed:.1f} s, the ranks behind it were gone after "
             f"{time.monotonic() - start:.1f} s")
        rig.two.restore()

    rig.streams(fault)
    assert rig.restarts() > before
    note(f"next token {rig.back_s:.1f} s after the cable was joined")


def check_rank_deaths(rig):
    for kind in (signal.SIGKILL, signal.SIGSTOP):
        rig.streams(lambda: [os.kill(pid, kind) for pid in rig.two.b.processes("kvasir-worker")])
        note(f"ranks of the further host get {kind.name}: next token after {rig.back_s:.1f} s")


def check_agent_death(rig):
    """It dies with all memory, as if its host had started anew: nothing that was cached there is believed."""
    def fault():
        rig.agent.kill()
        for pid in rig.two.b.processes("kvasir-worker"):
            os.kill(pid, signal.SIGKILL)
        rig.d.wait_line("no kvasird --agent of instance", first=len(rig.d.lines) - 1)
        rig.agent.fresh()
        rig.agent = rig.two.agent(rig.instance)

    rig.streams(fault)
    rig.streams()
    assert any("not what was sealed" in line for line in rig.d.lines), rig.d.lines
    note(f"an agent that died with its memory: next token {rig.back_s:.1f} s after there is one again")


def check_agent_stays_away(rig):
    """Its death alone ends nobody."""
    before = rig.restarts()
    rig.agent.kill()
    rig.streams()
    assert rig.restarts() == before
    rig.agent = rig.two.agent(rig.instance)  # it ends the ranks that it did not see begin
    wait_until(lambda: rig.restarts() > before, "a life with the new agent", RESTART_S_MAX)
    rig.streams()


def check_daemon_death(rig):
    body = {"prompt": PROMPTS[7], "max_tokens": 16, "temperature": 0}
    wanted = rig.d.post("/v1/completions", body)["choices"][0]["text"]
    workers = rig.two.a.processes("kvasir-worker")
    rig.d.kill()
    for pid in workers:
        wait_until(lambda: not process_is_alive(pid), "ranks die with their daemon", RESTART_S_MAX)
    rig.d = rig.start()
    assert any("adopted the pool" in line for line in rig.d.lines), rig.d.lines
    answer = rig.d.post("/v1/completions", body)
    assert answer["choices"][0]["text"] == wanted
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert cached > 16, f"{cached} tokens cached"
    assert not any("not what was sealed" in line for line in rig.d.lines), rig.d.lines
    rig.streams()


def check_stop(rig):
    rig.d.stop()
    assert rig.two.a.left() == [], rig.two.a.left()
    wait_until(lambda: not rig.two.b.processes("kvasir-worker") and not rig.two.b.processes("orted"), "ranks are gone")
    rig.agent.stop()
    assert rig.two.b.left() == [], rig.two.b.left()
    left = rig.two.a.processes() + rig.two.b.processes()
    assert left == [], [open(f"/proc/{pid}/cmdline").read() for pid in left]


def speed(d, tokens):
    start = time.monotonic()
    d.post("/v1/completions", {"prompt": PROMPTS[0], "max_tokens": tokens, "temperature": 0, "ignore_eos": True})
    return tokens / (time.monotonic() - start)


def check_speed(options):
    for delay_s in [None] + [ms / 2000 for ms in options.delays]:
        with TwoHosts(delay_s, options.kept) as two:
            instance = new_instance()
            agent = two.agent(instance)
            d = two.daemon(options.model, *MEMORY, instance=instance)
            speed(d, 8)
            rate, rtt = speed(d, 40 if delay_s else 100), two.round_trip_s()
            d.stop()
            agent.stop()
        note(f"{'cards' if delay_s is None else f'a wire of 2 x {delay_s * 1e3:g} ms'}: round trip {rtt * 1e3:.3f} ms, "
             f"{rate:.1f} tokens/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--delays", type=float, nargs="*", default=[0.5, 5], help="round trips in ms")
    parser.add_argument("--long", action="store_true", help="speed too")
    options = parser.parse_args()
    tap = Tap()
    try:
        options.model = model_path()
        if not mpi_is_built():
            raise Skip("this build has no MPI")
        options.kept = [os.path.dirname(os.path.dirname(vectors_path("tiny"))), os.path.dirname(options.model)]
        two = TwoHosts(None, options.kept)
    except Skip as reason:
        tap.skip("hosts", reason)
        tap.done()
    with two:
        tap.case("what cannot be is refused in one line", check_refusals, two, options)
        if tap.case("ranks on two hosts have the bits of one", check_bits, two, options):
            with Daemon(options.model, *MEMORY) as d:
                options.wanted = run_streams(d, options, Watch())
            rig = Rig(two, options)
            tap.case("streams over two hosts are those of one rank", check_streams, rig)
            tap.case("streams survive a cut cable", check_cut, rig)
            tap.case("streams survive what happens to a further host's ranks", check_rank_deaths, rig)
            tap.case("nothing is believed of a host that lost its memory", check_agent_death, rig)
            tap.case("an agent's death ends nobody", check_agent_stays_away, rig)
            tap.case("a daemon that dies leaves the pages of both hosts", check_daemon_death, rig)
            tap.case("a clean stop leaves nothing on either host", check_stop, rig)
    if options.long:
        tap.case("speed beside the round trip", check_speed, options)
    tap.done()


if __name__ == "__main__":
    main()
