# SPDX-License-Identifier: Apache-2.0
"""kvasir_test - what the black-box tests share: finding programs and models, running a daemon, talking to it.

A Daemon owns a kvasird process, its worker, and every name of its instance in /dev/shm. However a test ends,
nothing is left running (the kernel kills the daemon with its parent, the daemon's death ends the worker) and
nothing is left in /dev/shm (atexit and signal handlers remove the names of the instances of this process).
Nothing here sleeps for a fixed time: waits are for events, deadlines are fail-safes.

Results are printed one a line, "ok N - name", "not ok N - name" or "ok N - name # SKIP reason"; the exit
status is 0, 1, or 77 when everything was skipped.
"""
import argparse
import atexit
import ctypes
import functools
import glob
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

PAGE_TOKENS = 16
START_S_MAX = 120  # a cold start under a sanitizer on a loaded machine
STOP_S_MAX = 60
CALL_S_MAX = 120

# ---- where things are ----

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Skip(Exception):
    """Raised by a case that cannot run here; its text is the reason."""


def build_dir():
    named = os.environ.get("KVASIR_BUILD")
    if named:
        return os.path.abspath(named)
    inside = os.path.join(ROOT, "build")
    return inside if os.path.exists(os.path.join(inside, "kvasird")) else ROOT


def program(name):
    """Path of one of our programs. A missing one is a failure, not a skip: there is nothing to test."""
    path = os.path.join(build_dir(), name)
    if not os.access(path, os.X_OK):
        sys.exit(f"no program {path} (build it, or set KVASIR_BUILD)")
    return path


def vectors_path(*parts):
    """A path under the conformance vectors; skips where they are absent."""
    base = os.environ.get("KVASIR_VECTORS") or os.path.join(ROOT, "..", "shared", "vectors")
    path = os.path.abspath(os.path.join(base, *parts))
    if not os.path.exists(path):
        raise Skip("no conformance vectors here (KVASIR_VECTORS)")
    return path


def model_path():
    """The real model; skips where it is absent."""
    path = os.environ.get("KVASIR_MODEL") or os.path.expanduser(
        "~/.cache/kvasir/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.exists(path):
        raise Skip("no SmolLM2 model here (KVASIR_MODEL)")
    return path


@functools.lru_cache
def sanitizer():
    """"asan", "tsan" or "" for the kvasird under test: bounds on time and memory follow it."""
    names = {b"__asan_init": "asan", b"__tsan_init": "tsan"}
    path = program("kvasird")
    real = os.path.join(os.path.dirname(path), ".libs", "kvasird")  # behind a libtool wrapper
    with open(real if os.path.exists(real) else path, "rb") as file:
        content = file.read()
    return next((name for symbol, name in names.items() if symbol in content), "")


# ---- cleaning up, whatever happens ----

_instances = set()
_daemons = set()
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def new_instance():
    """A name for a daemon's shared memory that no other process uses."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    _instances.add(name)
    return name


def shm_names(instance):
    return sorted(os.path.basename(path) for path in glob.glob(f"/dev/shm/kvasir-{instance}-*"))


def remove_names(instance):
    """What a killed daemon left in /dev/shm."""
    for name in shm_names(instance):
        try:
            os.unlink("/dev/shm/" + name)
        except FileNotFoundError:
            pass


def _clean_up():
    for daemon in list(_daemons):
        daemon.kill()
    for instance in _instances:
        remove_names(instance)


def _on_signal(number, _frame):
    sys.exit(128 + number)  # atexit runs


atexit.register(_clean_up)
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(_number, _on_signal)


def die_with_parent():
    """For preexec_fn. The kernel watches the thread that forks: start processes from the main thread."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# ---- processes ----

def daemon_environment(more=None):
    """Ours without what would set options of kvasird (KVASIR_MODEL is one) or change the form of its log."""
    plain = {name: value for name, value in os.environ.items()
             if name == "KVASIR_KERNELS" or not name.startswith("KVASIR_") and name != "JOURNAL_STREAM"}
    return {**plain, **(more or {})}


def process_children(pid):
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return [int(child) for task in tasks
                for child in open(f"/proc/{pid}/task/{task}/children").read().split()]
    except OSError:
        return []


def process_is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def process_rss_bytes(pid):
    """Resident memory without shared mappings of shmem: those are the pool, reserved whole at start."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))


def process_cpu_s(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def process_fd_count(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_until(condition, what, deadline_s=30.0, step_s=0.005):
    """Polls what the kernel offers no event for. Returns the condition's first true value."""
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline_s} s")
        time.sleep(step_s)


class Daemon:
    """A kvasird on a port of the system's choice. Use as a context manager: leaving it stops the daemon
    cleanly and checks its exit status and that /dev/shm is empty of it."""

    def __init__(self, model, *flags, env=None, instance=None, wait=True, port=True, wrapper=()):
        self.instance = instance or new_instance()
        self.lines, self._changed, self._log_ended = [], threading.Condition(), False
        self.address = None
        self.key = None
        command = [*wrapper, program("kvasird"), model, "--instance", self.instance,
                   "--worker-path", program("kvasir-worker")]
        command += (["--port", "0"] if port else []) + [str(flag) for flag in flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, env=daemon_environment(env),
                                        preexec_fn=die_with_parent)
        _daemons.add(self)
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if wait:
            self.wait_ready()

    @property
    def pid(self):
        return self.process.pid

    def _read_log(self):
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def wait_line(self, pattern, first=0, deadline_s=START_S_MAX):
        """The first log line from number `first` on that matches."""
        end = time.monotonic() + deadline_s
        with self._changed:
            while True:
                for line in self.lines[first:]:
                    found = re.search(pattern, line)
                    if found:
                        return found
                if self._log_ended or time.monotonic() > end:
                    why = "the daemon ended" if self._log_ended else f"not within {deadline_s} s"
                    raise AssertionError(f"no log line '{pattern}': {why}; log:\n" + "\n".join(self.lines))
                self._changed.wait(end - time.monotonic())

    def wait_ready(self):
        found = self.wait_line(r"ready after .* at (http://(\S+):(\d+))?")
        if found.group(1):
            self.address = (found.group(2).strip("[]"), int(found.group(3)))

    def worker_pid(self):
        """The worker's process, or None while there is none."""
        children = [pid for pid in process_children(self.pid) if process_is_alive(pid)]
        return children[0] if children else None

    def wait_exit(self, deadline_s=STOP_S_MAX):
        status = self.process.wait(deadline_s)
        self._reader.join(deadline_s)
        _daemons.discard(self)
        return status

    def stop(self):
        """Clean end: status 0, no worker, nothing in /dev/shm."""
        workers = process_children(self.pid)
        self.process.send_signal(signal.SIGTERM)
        status = self.wait_exit()
        assert status == 0, f"the daemon ended with {status}; log:\n" + "\n".join(self.lines)
        assert not any(process_is_alive(pid) for pid in workers), "a worker outlived the daemon's clean end"
        assert not shm_names(self.instance), f"left in /dev/shm: {shm_names(self.instance)}"
        complaints = [line for line in self.lines if re.search(r"Sanitizer|runtime error", line)]
        assert not complaints, complaints

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.wait_exit()

    def fsck(self):
        """Faults that `kvasir fsck` reports, as a list of texts."""
        done = subprocess.run([program("kvasir"), "fsck", "--instance", self.instance, "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=CALL_S_MAX)
        if done.returncode not in (0, 1):
            return [f"exit {done.returncode}: {done.stderr.decode(errors='replace')}"]
        report = json.loads(done.stdout)
        assert (done.returncode == 1) == bool(report["fault_count"]), "exit status and report differ"
        return report["faults"]

    def call(self, method, path, body=None, **options):
        return call(self.address, method, path, body, key=self.key, **options)

    def post(self, path, body, status=200, **options):
        """The JSON of the answer, whose status must be as given."""
        answer = self.call("POST", path, body, **options)
        assert answer.status == status, f"{path}: {answer.status} {answer.text[:600]}"
        return answer.json

    def get(self, path, status=200):
        answer = self.call("GET", path)
        assert answer.status == status, f"{path}: {answer.status} {answer.text[:600]}"
        return answer.json

    def complete(self, prompt, **fields):
        return self.post("/v1/completions", {"prompt": prompt, **fields})

    def chat(self, text, **fields):
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})

    def stream(self, path, body):
        return stream(self.address, path, {**body, "stream": True}, key=self.key)

    def metrics(self):
        """{"name{labels}": value} of /metrics."""
        answer = self.call("GET", "/metrics")
        assert answer.status == 200, answer.text[:600]
        samples = (line.rsplit(" ", 1) for line in answer.text.splitlines() if line and line[0] != "#")
        return {name: float(value) for name, value in samples}

    def metric(self, name):
        """Sum over the series of one name."""
        values = [v for k, v in self.metrics().items() if re.split(r"[{ ]", k)[0] == name]
        assert values, f"no metric {name}"
        return sum(values)

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _trace):
        if kind is None:
            self.stop()
        else:
            self.kill()


# ---- HTTP ----

class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.unix_path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class Answer:
    def __init__(self, response, body, seconds):
        self.status, self.headers = response.status, response.headers
        self.body, self.seconds = body, seconds
        self.text = body.decode(errors="replace")

    @property
    def json(self):
        return json.loads(self.body)


def connect(address, timeout=None):
    """address: (host, port), or the path of a unix socket. The deadline is ten times later under a sanitizer."""
    timeout = timeout or CALL_S_MAX * (10 if sanitizer() else 1)
    if isinstance(address, str):
        return UnixConnection(address, timeout)
    return http.client.HTTPConnection(*address, timeout=timeout)


def _headers(key, headers):
    all_headers = {"Content-Type": "application/json", **(headers or {})}
    if key:
        all_headers["Authorization"] = "Bearer " + key
    return all_headers


def encode_body(body):
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def call(address, method, path, body=None, key=None, headers=None, connection=None):
    """One request with its whole answer. body: bytes as they are, anything else as JSON."""
    used = connection or connect(address)
    data = encode_body(body)
    start = time.perf_counter()
    used.request(method, path, data, _headers(key, headers))
    response = used.getresponse()
    content = response.read()
    answer = Answer(response, content, time.perf_counter() - start)
    if not connection:
        used.close()
    return answer


class StreamError(AssertionError):
    """A stream that ended with an error event, an error status, or without [DONE]."""


def stream(address, path, body, key=None):
    """Yields the events of a stream as they come. Closing the generator drops the connection."""
    connection = connect(address)
    try:
        connection.request("POST", path, encode_body(body), _headers(key, None))
        response = connection.getresponse()
        if response.status != 200:
            raise StreamError(f"status {response.status}: {response.read()[:600]!r}")
        kind = response.headers["Content-Type"]
        assert kind.startswith("text/event-stream"), kind
        for line in response:
            if line == b"\n":
                continue
            assert line.startswith(b"data: ") and line.endswith(b"\n"), line
            if line == b"data: [DONE]\n":
                rest = response.read()
                assert rest == b"\n", f"after [DONE]: {rest!r}"
                return
            event = json.loads(line[6:])
            if "error" in event:
                raise StreamError(f"error event: {event}")
            yield event
        raise StreamError("the stream ended without [DONE]")
    finally:
        connection.close()


class Streamed:
    """What a whole stream of one choice said."""

    def __init__(self, events):
        self.events = list(events)
        self.text, self.ids, self.finish, self.usage = "", [], None, None
        for event in self.events:
            self.usage = event.get("usage") or self.usage
            for choice in event["choices"]:
                delta = choice.get("delta", choice)
                self.text += delta.get("content", delta.get("text")) or ""
                self.ids += choice.get("token_ids") or []
                self.finish = choice["finish_reason"] or self.finish


def in_parallel(function, arguments):
    """function(argument) for each in a thread of its own; results in order. Raises the first failure."""
    arguments = list(arguments)
    results, failures = [None] * len(arguments), []

    def run(i):
        try:
            results[i] = function(arguments[i])
        except BaseException as failure:  # noqa: B902, raised again below
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(arguments))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


# ---- results ----

def require(condition, what):
    if not condition:
        raise AssertionError(what)


def expect(got, wanted, what=""):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


class Tap:
    """Counts and prints the cases of one script."""

    def __init__(self):
        self.count = self.failed = self.skipped = 0

    def case(self, name, function, *arguments):
        """Runs one case and prints its line. Returns whether it did not fail."""
        self.count += 1
        try:
            function(*arguments)
        except Skip as reason:
            self.count -= 1
            self.skip(name, reason)
            return True
        except Exception as failure:  # every failure of a case is a result, not the end of the script
            self.failed += 1
            print(f"not ok {self.count} - {name}", flush=True)
            place = traceback.extract_tb(failure.__traceback__)
            ours = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in place]
            print(f"#   {' > '.join(ours[1:])}")
            for line in f"{type(failure).__name__}: {failure}".splitlines()[:40]:
                print(f"#   {line}", flush=True)
            return False
        print(f"ok {self.count} - {name}", flush=True)
        return True

    def skip(self, name, reason):
        self.count += 1
        self.skipped += 1
        print(f"ok {self.count} - {name} # SKIP {reason}", flush=True)

    def done(self):
        """Prints the last lines and ends the process."""
        print(f"1..{self.count}")
        passed = self.count - self.failed - self.skipped
        print(f"# {passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        sys.exit(1 if self.failed else 77 if self.count == self.skipped else 0)


def note(text):
    """A line of figures between the results."""
    print(f"# {text}", flush=True)


def begin(doc, name, **defaults):
    """-> (options, Tap) of a script that takes its numbers from a seed: --OPTION for each default, of the default's
    type, and --seed, KVASIR_SEED or drawn, which is printed. Without a model the script ends, skipped as name."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    for option, default in defaults.items():
        parser.add_argument("--" + option.replace("_", "-"), type=type(default), default=default)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("KVASIR_SEED") or time.time_ns() % 10**9))
    options = parser.parse_args()
    tap = Tap()
    options.model = getattr(options, "model", "")
    try:
        options.model = options.model or model_path()
    except Skip as reason:
        tap.skip(name, reason)
        tap.done()
    note(f"seed {options.seed}")
    return options, tap


def run_cases(cases, *arguments):
    """Runs (name, function) pairs, only those whose name holds argv[1] where that is given."""
    tap = Tap()
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, function in cases:
        if wanted in name:
            tap.case(name, function, *arguments)
    return tap


def cases_of(scope):
    """The test_ functions of a module in their order, with their names in words."""
    return [(name[5:].replace("_", " "), function) for name, function in scope.items()
            if name.startswith("test_") and callable(function)]


def need(cases, find, *arguments):
    """What find(*arguments) returns; where it raises Skip, all (name, function) pairs are skipped and the script ends."""
    try:
        return find(*arguments)
    except Skip as reason:
        tap = Tap()
        for name, _function in cases:
            tap.skip(name, reason)
        return tap.done()


def temporary_directory():
    return tempfile.TemporaryDirectory(prefix="kvasir-test-")
