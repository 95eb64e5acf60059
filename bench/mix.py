#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mix - what streams, a long prompt and a short one cost each other.

usage: mix.py [--model MODEL.gguf] [--rounds 3] [--streams 8] [--long 7000] [--short 64] [--flags "--itl-target-ms 50"]
              [--cpu] [--peer PATH-OF-llama-server]

Each round: the long prompt alone, the short prompt alone, then streams: calm for a while, the long prompt, the short one a
quarter of its time alone later, and calm again once the long one has its first token. Prompts are random token ids, so that
nothing is cached. Prints a line a round and the medians of the ratios beside the targets:

    ITL    99th percentile of the time between two events of a stream while the long prompt is computed, by that of the calm
           before and after together                                                                      <= 1.5
    long   time to its first token, by its time alone                                                     <= 1.3
    short  likewise                                                                                       <= 3

--cpu takes the processor time of a worker with one thread instead of the clock: what the schedule costs, on a machine that
others use too. Not with --peer.

Everything is on loopback and ends with the script. KVASIR_BUILD names the build to run.
"""
import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "e2e"))
from kvasir_test import Daemon, Skip, die_with_parent, model_path, wait_until  # noqa: E402

CALM_TOKENS = 140  # of each stream, before and after
worker_clock = None  # of --cpu: the schedstat of the worker's only thread
TARGETS = {"ITL p99": 1.5, "long TTFT": 1.3, "short TTFT": 3.0}


def now():
    """Seconds by the clock in use."""
    if worker_clock is None:
        return time.perf_counter()
    with open(worker_clock, encoding="ascii") as file:
        return int(file.read().split()[0]) * 1e-9


async def request(port, ids, max_tokens, stamps):
    """Streams one completion; appends the time of every event that has text or a token."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"prompt": ids, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
                       "stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    try:
        await writer.drain()
        while line := await reader.readline():
            if line.startswith(b"HTTP/1.1") and b" 200 " not in line:
                raise RuntimeError(line.decode() + (await reader.read(600)).decode(errors="replace"))
            if line.startswith(b'data: {"error') or line.startswith(b"error:"):
                raise RuntimeError(line.decode())
            if line.startswith(b"data: {"):
                stamps.append(now())
    finally:
        writer.close()


async def first_token(port, ids):
    """Seconds to the first token of a prompt."""
    stamps, start = [], now()
    await request(port, ids, 1, stamps)
    if not stamps:
        raise RuntimeError("no token came")
    return stamps[0] - start


def gaps_between(streams, begin, end):
    return [b - a for stamps in streams for a, b in zip(stamps, stamps[1:]) if begin <= b <= end]


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


async def until_more(streams, count):
    """Waits until every stream has `count` more events."""
    wanted = [len(stamps) + count for stamps in streams]
    while any(len(stamps) < want for stamps, want in zip(streams, wanted)):
        await asyncio.sleep(0.005)


async def one_round(port, args, rnd):
    def ids(count):
        return [rnd.randrange(1000, 40000) for _ in range(count)]

    long_alone = await first_token(port, ids(args.long))
    short_alone = statistics.median([await first_token(port, ids(args.short)) for _ in range(3)])
    streams = [[] for _ in range(args.streams)]
    tasks = [asyncio.create_task(request(port, ids(100), args.context - 200, stamps)) for stamps in streams]
    await until_more(streams, 8)
    marks = [now()]
    await until_more(streams, CALM_TOKENS)
    marks.append(now())
    prompt = asyncio.create_task(first_token(port, ids(args.long)))
    while now() < marks[1] + long_alone / 4:
        await asyncio.sleep(0.005)
    short = await first_token(port, ids(args.short))
    passed = not prompt.done()
    long = await prompt
    marks.append(now())
    await until_more(streams, CALM_TOKENS)
    marks.append(now())
    for task in tasks:
        if task.done():
            raise RuntimeError(f"a stream ended before the round did: {task.exception()}")
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    calm = gaps_between(streams, marks[0], marks[1]) + gaps_between(streams, marks[2], marks[3])
    mixed = gaps_between(streams, marks[1], marks[2])
    found = {"ITL p99": percentile(mixed, 99) / percentile(calm, 99), "ITL p50": percentile(mixed, 50) / percentile(calm, 50),
             "long TTFT": long / long_alone, "short TTFT": short / short_alone}
    print(f"  ITL p50 {1e3 * percentile(calm, 50):.1f} -> {1e3 * percentile(mixed, 50):.1f} ms, "
          f"p99 {1e3 * percentile(calm, 99):.1f} -> {1e3 * percentile(mixed, 99):.1f} ms ({found['ITL p99']:.2f} x, {len(mixed)} "
          f"gaps, longest {1e3 * max(mixed):.0f} ms); long {long_alone:.2f} -> {long:.2f} s ({found['long TTFT']:.2f} x); "
          f"short {1e3 * short_alone:.0f} -> {1e3 * short:.0f} ms ({found['short TTFT']:.2f} x)"
          + ("" if passed else ", after the long one"), flush=True)
    return found


def summary(name, rounds):
    print(f"{name}, medians of {len(rounds)}:", flush=True)
    for key in rounds[0]:
        median = statistics.median(found[key] for found in rounds)
        target = TARGETS.get(key)
        verdict = "" if target is None else f"  (target {target}: {'held' if median <= target else 'missed'})"
        print(f"  {key:<11} {median:.2f} x{verdict}", flush=True)


def peer_start(args):
    """llama-server on a port of the system's choice, with a slot for everybody."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    slots = args.streams + 2
    folder = os.path.dirname(os.path.abspath(args.peer))
    path = ":".join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))
    child = subprocess.Popen([args.peer, "-m", args.model, "--host", "127.0.0.1", "--port", str(port), "-np", str(slots),
                              "-c", str(slots * args.context)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env={**os.environ, "LD_LIBRARY_PATH": path}, preexec_fn=die_with_parent)

    def healthy():
        import urllib.request
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            if child.poll() is not None:
                sys.exit("mix: llama-server ended")
            return False

    wait_until(healthy, "llama-server ready", deadline_s=120, step_s=0.1)
    return child, port


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--streams", type=int, default=8)
    p.add_argument("--long", type=int, default=7000)
    p.add_argument("--short", type=int, default=64)
    p.add_argument("--context", type=int, default=8192)
    p.add_argument("--flags", default="", help="further flags of kvasird")
    p.add_argument("--cpu", action="store_true", help="the worker's processor time instead of the clock")
    p.add_argument("--peer", help="path of llama-server")
    args = p.parse_args()
    try:
        args.model = args.model or model_path()
    except Skip as reason:
        print(f"mix: {reason}")
        sys.exit(77)
    servers = {}
    one_thread = ["--threads", "1"] if args.cpu else []
    daemon = Daemon(args.model, "--max-model-len", args.context, *one_thread, *args.flags.split())
    if args.cpu:
        global worker_clock
        worker_clock = f"/proc/{daemon.worker_pid()}/schedstat"
    servers["kvasird"] = daemon.address[1]
    peer = None
    if args.peer:
        peer, servers["llama-server"] = peer_start(args)
    found = {name: [] for name in servers}
    for number in range(args.rounds):
        for name, port in servers.items():
            print(f"round {number + 1}, {name}:", flush=True)
            found[name].append(asyncio.run(one_round(port, args, random.Random(number))))
    for name, rounds in found.items():
        summary(name, rounds)
    if peer:
        peer.kill()
        peer.wait()
    daemon.stop()


if __name__ == "__main__":
    main()
