#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""daemon_death - how a daemon ends, and what comes after it.

daemon_death.py [PART OF A NAME]. Killed: its worker goes by itself, the next start adopts what was left and
says so (more: adoption.py). Told to end: running streams finish, nothing new is taken; told twice: it ends at once."""
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (Daemon, StreamError, Streamed, cases_of, daemon_environment,  # noqa: E402
                         die_with_parent, in_parallel, model_path, new_instance, process_children,
                         process_is_alive, program, require, run_cases, shm_names, wait_until)

COMPLETION = "/v1/completions"
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True, "temperature": 0}
WORKER_GONE_S_MAX = 5
AT_ONCE_S_MAX = 8


def test_the_worker_goes_with_a_killed_daemon():
    instance = new_instance()
    d = Daemon(model_path(), instance=instance)
    pid, worker = d.pid, d.worker_pid()
    events = d.stream(COMPLETION, LONG)
    for _ in range(40):
        next(events)
    d.process.kill()
    wait_until(lambda: not process_is_alive(worker), "the worker is gone", WORKER_GONE_S_MAX)
    d.wait_exit()
    require(shm_names(instance), "a killed daemon leaves its names")
    require(d.fsck() == [], f"fsck of the dead pool: {d.fsck()}")
    with Daemon(model_path(), instance=instance) as again:
        found = again.wait_line(r"adopted the pool of dead process (\d+) in .*: (\d+) of (\d+) cached pages")
        require(int(found.group(1)) == pid, found.group(0))
        require(int(found.group(2)) >= 2, f"cached pages: {found.group(0)}")
        require(found.group(2) == found.group(3), found.group(0))
        again.complete("Hi", max_tokens=2)
        require(again.fsck() == [], again.fsck())
    require(shm_names(instance) == [], shm_names(instance))


def test_the_next_daemon_need_not_wait_for_a_killed_one():
    d = Daemon(model_path())
    d.complete("Hi", max_tokens=40, ignore_eos=True)
    d.process.kill()  # and at once, before anybody has seen it end:
    with Daemon(model_path(), instance=d.instance) as again:
        again.wait_line("adopted the pool of dead process", deadline_s=1)
        again.complete("Hi", max_tokens=2)
    d.wait_exit()


def test_a_daemon_killed_while_it_loads_leaves_no_worker():
    d = Daemon(model_path(), wait=False)
    worker = wait_until(d.worker_pid, "a worker")
    d.process.kill()
    wait_until(lambda: not process_is_alive(worker), "the worker is gone", WORKER_GONE_S_MAX)
    d.wait_exit()
    with Daemon(model_path(), instance=d.instance) as again:
        again.complete("Hi", max_tokens=2)


def test_a_killed_idle_worker_is_replaced():
    with Daemon(model_path()) as d:
        worker, seen = d.worker_pid(), len(d.lines)
        text = d.complete(**{**LONG, "max_tokens": 20})["choices"][0]["text"]
        os.kill(worker, signal.SIGKILL)
        d.wait_line("the worker is back", first=seen)
        require(d.worker_pid() != worker, "another process")
        require(d.complete(**{**LONG, "max_tokens": 20})["choices"][0]["text"] == text, "the same text")
        require(d.metric("kvasir:worker_restarts_total") == 1, "restarts are counted")


def test_the_kernel_would_take_the_worker_before_the_daemon():
    def score(pid):
        with open(f"/proc/{pid}/oom_score_adj", encoding="ascii") as file:
            return int(file.read())

    with Daemon(model_path()) as d:
        require(score(d.worker_pid()) == max(score(d.pid), 200), "the worker raised its own")


def test_a_daemon_with_cpus_of_its_own_keeps_to_them():
    cpu = max(os.sched_getaffinity(0))
    with Daemon(model_path(), "--cpus", cpu) as d:
        for pid in (d.pid, d.worker_pid()):
            require(os.sched_getaffinity(pid) == {cpu}, f"{pid} uses {os.sched_getaffinity(pid)}")
        require(len(os.listdir(f"/proc/{d.worker_pid()}/task")) == 1, "one core, one thread")
        d.complete("Hi", max_tokens=2)


def without_descriptors():
    die_with_parent()
    os.closerange(0, 3)


def test_missing_descriptors_are_opened():
    instance = new_instance()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "socket")
        daemon = subprocess.Popen([program("kvasird"), model_path(), "--instance", instance, "--port", "0",
                                   "--worker-path", program("kvasir-worker"), "--uds", path],
                                  env=daemon_environment(), preexec_fn=without_descriptors)
        wait_until(lambda: os.path.exists(path) or daemon.poll() is not None, "the socket")
        require(daemon.poll() is None, f"ended with {daemon.returncode}")
        files = [os.readlink(f"/proc/{daemon.pid}/fd/{fd}") for fd in range(3)]
        require(files == ["/dev/null"] * 3, files)
        daemon.send_signal(signal.SIGTERM)
        require(daemon.wait(60) == 0, f"exit status {daemon.returncode}")
    require(shm_names(instance) == [], shm_names(instance))


def drained(number):
    """Eight streams run, the daemon is told to end: they end whole. -> seconds the end took"""
    d = Daemon(model_path())
    body = {**LONG, "max_tokens": 60}
    wanted = Streamed(d.stream(COMPLETION, body)).text
    started = threading.Barrier(9)

    def run(_i):
        events = d.stream(COMPLETION, body)
        first = next(events)
        started.wait(60)
        return Streamed([first, *events])

    results = []
    runner = threading.Thread(target=lambda: results.extend(in_parallel(run, range(8))))
    runner.start()
    started.wait(60)
    first = len(d.lines)
    d.process.send_signal(number)
    start = time.monotonic()
    d.wait_line("taking nothing new", first=first, deadline_s=5)
    try:
        with socket.create_connection(d.address, 5) as sock:
            sock.sendall(b"GET /ready HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            answer = sock.recv(100)
            require(answer == b"" or answer.startswith(b"HTTP/1.1 503"), f"a new connection: {answer!r}")
    except ConnectionError:
        pass  # not listening any more is what we expect
    runner.join(60)
    require([s.text for s in results] == [wanted] * 8, f"{len(results)} streams ended whole")
    require(d.wait_exit() == 0, f"exit status {d.process.returncode}")
    require(shm_names(d.instance) == [], shm_names(d.instance))
    return time.monotonic() - start


def test_sigterm_lets_streams_finish():
    drained(signal.SIGTERM)


def test_sigint_lets_streams_finish():
    drained(signal.SIGINT)


def test_sigterm_twice_ends_at_once():
    d = Daemon(model_path())
    workers = process_children(d.pid)
    events = d.stream(COMPLETION, LONG)
    next(events)
    start = time.monotonic()
    d.process.send_signal(signal.SIGTERM)
    d.wait_line("taking nothing new", deadline_s=5)
    d.process.send_signal(signal.SIGTERM)
    try:
        list(events)
        raise AssertionError("the stream ended as if it were whole")
    except (StreamError, OSError) as failure:
        require(re.search("shutting down", str(failure)), f"no reason given: {failure!r}")
    require(d.wait_exit(AT_ONCE_S_MAX) == 0, f"exit status {d.process.returncode}")
    require(time.monotonic() - start < AT_ONCE_S_MAX, "at once")
    require(not any(process_is_alive(pid) for pid in workers), "the worker is gone")
    require(shm_names(d.instance) == [], shm_names(d.instance))


def test_sigterm_while_loading_ends_it():
    d = Daemon(model_path(), wait=False)
    wait_until(d.worker_pid, "a worker")
    d.process.send_signal(signal.SIGTERM)
    require(d.wait_exit(AT_ONCE_S_MAX) == 0, f"exit status {d.process.returncode}; {d.lines}")
    require(shm_names(d.instance) == [], shm_names(d.instance))


def test_sigterm_with_idle_connections_ends_it():
    d = Daemon(model_path(), "--header-timeout", 1)
    with socket.create_connection(d.address) as quiet, socket.create_connection(d.address) as half:
        quiet.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
        require(quiet.recv(1000).startswith(b"HTTP/1.1 200"), "kept alive")
        half.sendall(b"GET /hea")
        d.complete("Hi", max_tokens=1)  # by now the half head was read
        d.process.send_signal(signal.SIGTERM)
        require(d.wait_exit(AT_ONCE_S_MAX + 10) == 0, f"exit status {d.process.returncode}; {d.lines}")
    require(shm_names(d.instance) == [], shm_names(d.instance))


if __name__ == "__main__":
    run_cases(cases_of(globals())).done()
