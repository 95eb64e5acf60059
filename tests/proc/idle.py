#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""idle - a daemon and a worker with nothing to do use no CPU.

idle.py [--seconds 5] [--share 0.005]. After a load, and with some kept-alive connections open, the CPU time of
both processes over the idle period must stay under that share of one core."""
import argparse
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, Skip, Tap, call, connect, in_parallel, model_path, note,  # noqa: E402
                         process_cpu_s, wait_until)

CONNECTIONS = 4
SETTLE_S_MAX = 10


def cpu_s(d):
    return process_cpu_s(d.pid), process_cpu_s(d.worker_pid())


def check_idle(d, options):
    in_parallel(lambda i: d.complete(f"Load number {i} of", max_tokens=24, ignore_eos=True), range(16))
    connections = [connect(d.address) for _ in range(CONNECTIONS)]
    for connection in connections:
        assert call(d.address, "GET", "/health", connection=connection).status == 200
    wait_until(lambda: d.metric("vllm:num_requests_running") == 0, "the load has ended", SETTLE_S_MAX)
    before, start = cpu_s(d), time.monotonic()
    time.sleep(options.seconds)  # the measurement itself
    after, seconds = cpu_s(d), time.monotonic() - start
    used = [b - a for a, b in zip(before, after)]
    share = sum(used) / seconds
    note(f"{seconds:.1f} s idle: daemon {used[0] * 1e3:.0f} ms, worker {used[1] * 1e3:.0f} ms of CPU, together "
         f"{100 * share:.3f} % of a core")
    for connection in connections:
        connection.close()
    assert share < options.share, f"{100 * share:.3f} % of a core"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--share", type=float, default=0.005)
    options = parser.parse_args()
    tap = Tap()
    try:
        model = model_path()
    except Skip as reason:
        tap.skip("idle", reason)
        tap.done()
    with Daemon(model) as d:
        tap.case(f"idle for {options.seconds:g} s", check_idle, d, options)
    tap.done()


if __name__ == "__main__":
    main()
