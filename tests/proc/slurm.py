#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""slurm - docs/examples/kvasir.sbatch on a cluster of one machine: it serves, and ends cleanly however Slurm ends it.

slurm.py [--long]. The cluster is made here: slurmctld and slurmd in namespaces of their own (processes, network, mounts,
host name), with a /dev/shm that holds nothing but it, so that it meets no other Slurm, needs no free port, and is gone with
this process, however that ends. A chat through the job has the tokens and log-probabilities of a kvasird without Slurm, with
one rank and with two; scancel lets a running stream finish; then no process, segment or directory of the job is left. With
--long also: the time limit's signal comes early enough (Slurm counts in minutes), and a requeued job finds its cache.
Skipped where Slurm is not installed, or without the right to make namespaces."""
import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from kvasir_test import (ROOT, Daemon, Skip, Streamed, Tap, build_dir, call, daemon_environment, die_with_parent, model_path, note,  # noqa: E402
                         process_children, program, require, stream, wait_until)
from ranks import mpi_is_built  # noqa: E402

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "squeue", "sinfo", "unshare", "ip", "mount")
NAMESPACES = ("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
HOME = "/dev/shm/cluster"  # in a /dev/shm of our own
NODE, ADDRESS = "node0", "10.11.12.13"  # resolvers leave 127.0.0.1 aside where there is nothing else
CLUSTER_S_MAX, JOB_S_MAX, RUN_S_MAX = 120, 120, 900
FLAGS = ("--kv-cache-memory-bytes", "64M", "--max-model-len", "1024")
CHAT = {"messages": [{"role": "user", "content": "Count from one to fifty in words, and say why numbers have no end."}],
        "temperature": 0, "max_tokens": 48, "ignore_eos": True, "logprobs": True, "top_logprobs": 3, "return_token_ids": True}
OURS = ("kvasird", "kvasir-worker", "mpirun", "orted", "slurmstepd")

CONFIGURATION = """
ClusterName=kvasir
SlurmctldHost={node}({address})
SlurmUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MailProg=/bin/true
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
NodeName={node} NodeAddr={address} CPUs={cpus} RealMemory={megabytes}
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""


def text_of(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def ask(*command):
    """What a command of Slurm prints; it must succeed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=JOB_S_MAX, cwd=HOME,
                          env=daemon_environment())  # a job inherits it
    text = done.stdout.decode(errors="replace").strip()
    require(done.returncode == 0, f"{' '.join(command)}: {text}")
    return text


class Cluster:
    """slurmctld and slurmd of this machine. Both end with the namespace that they are in."""

    def __init__(self):
        for name in ("state", "spool", "home", "tmp"):
            os.makedirs(os.path.join(HOME, name))
        megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        with open(os.path.join(HOME, "slurm.conf"), "w") as file:
            file.write(CONFIGURATION.format(node=NODE, address=ADDRESS, home=HOME, cpus=os.cpu_count(), megabytes=megabytes))
        os.environ.update(KVASIR_MODEL=model_path(), SLURM_CONF=os.path.join(HOME, "slurm.conf"), HOME=os.path.join(HOME, "home"),
                          TMPDIR=os.path.join(HOME, "tmp"), PATH=build_dir() + os.pathsep + os.environ["PATH"],
                          OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        for name in ("XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
            os.environ.pop(name, None)
        self.daemons = [self.start("slurmctld"), self.start("slurmd")]
        wait_until(self.is_up, "the node is idle", CLUSTER_S_MAX, 0.1)

    def start(self, name):
        with open(os.path.join(HOME, name + ".log"), "w") as log:
            return subprocess.Popen([name, "-D"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=HOME)

    def is_up(self):
        for daemon in self.daemons:
            require(daemon.poll() is None, f"{daemon.args[0]} ended:\n" + text_of(f"{HOME}/{daemon.args[0]}.log")[-2000:])
        done = subprocess.run(["sinfo", "--noheader", "--format=%T"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return done.stdout.strip() == b"idle"


class Job:
    """The example's script, submitted with what a user of this cluster would add."""

    def __init__(self, *flags, more=(), lines=()):
        script = os.path.join(ROOT, "docs", "examples", "kvasir.sbatch")
        self.id = ask("sbatch", "--parsable", f"--cpus-per-task={os.cpu_count()}", "--mem=1G", *more, script, model_path(),
                      *FLAGS, *map(str, flags))
        self.log = os.path.join(HOME, f"kvasir-{self.id}.log")
        self.address = None
        for line in lines:
            self.wait_line(line)

    def wait_line(self, pattern, count=1):
        """The match of a line of the log, of the count-th that does."""
        def look():
            found = list(re.finditer(pattern, text_of(self.log)))
            require(len(found) >= count or self.state(), f"the job ended without '{pattern}':\n{text_of(self.log)}")
            return found[count - 1] if len(found) >= count else None
        return wait_until(look, f"'{pattern}' in the log of the job", JOB_S_MAX, 0.1)

    def wait_ready(self, life=1):
        port = self.wait_line(r"ready after .* at http://0\.0\.0\.0:(\d+)", life).group(1)
        self.address, self.key = (ADDRESS, int(port)), text_of(os.path.join(HOME, "home", ".kvasir-key")).strip()

    def state(self):
        """"" once it is over and its last process gone."""
        state = ask("squeue", "--noheader", "--format=%T", "--states=all", "--jobs", self.id)
        return "" if state in ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL") else state

    def wait_end(self):
        wait_until(lambda: not self.state(), f"job {self.id} ends", JOB_S_MAX, 0.1)
        return dict(re.findall(r"(\w+)=(\S+)", ask("scontrol", "show", "job", self.id)))

    def chat(self):
        answer = call(self.address, "POST", "/v1/chat/completions", CHAT, key=self.key)
        require(answer.status == 200, answer.text)
        return answer.json


def essence(answer):
    choice = answer["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], choice["logprobs"]


def processes(names):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        name, status = text_of(f"/proc/{pid}/comm").strip(), text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1]
        if name in names and status not in (["Z"], []):
            found.append((int(pid), name))
    return found


def check_nothing_left():
    wait_until(lambda: not processes(OURS), f"no process is left: {processes(OURS)}", 10)
    left = [name for name in os.listdir("/dev/shm") if name != os.path.basename(HOME)] + os.listdir(os.environ["TMPDIR"])
    require(left == [], f"left: {left}")


class Run:
    def __init__(self):
        self.cluster, self.calm = None, None

    def check_up(self):
        self.cluster = Cluster()

    def check_calm(self):
        with Daemon(model_path(), *FLAGS) as d:
            self.calm = essence(d.post("/v1/chat/completions", CHAT))
        check_nothing_left()

    def stream(self, job, begun, result):
        events = []
        for event in stream(job.address, "/v1/chat/completions", {**CHAT, "max_tokens": 200, "stream": True}, key=job.key):
            events.append(event)
            begun.set()
        result.append(Streamed(events))

    def check_job(self, ranks):
        job = Job("--tensor-parallel-size", ranks)
        job.wait_ready()
        for what in ("cold", "warm"):
            require(essence(job.chat()) == self.calm, f"{what}: other than without Slurm")
        for pid, name in processes(("mpirun", "kvasir-worker")):
            require("\0SLURM" not in "\0" + text_of(f"/proc/{pid}/environ"), f"{name} would ask Slurm for its hosts")
        begun, result = threading.Event(), []
        thread = threading.Thread(target=self.stream, args=(job, begun, result))
        thread.start()
        require(begun.wait(JOB_S_MAX), "a stream begins")
        ask("scancel", job.id)
        thread.join(JOB_S_MAX)
        require(result and result[0].finish == "length", f"the stream was cut:\n{text_of(job.log)}")
        require(result[0].text.startswith(self.calm[0]), "the stream has other words")
        facts = job.wait_end()
        require(facts["JobState"] == "CANCELLED", facts)
        log = text_of(job.log)
        require("SIGTERM: finishing what runs" in log and not re.search(r"kvasird\[\d+\] error:", log), log)
        require(ranks > 1 or "the worker died" not in log, log)  # mpirun dies of Slurm's SIGTERM
        check_nothing_left()
        note(f"{ranks} rank(s): stopped with a stream of 200 tokens running; exit code {facts['ExitCode']}")

    def check_limit(self):
        job = Job(more=["--time=1"])
        job.wait_ready()
        job.wait_line("SIGTERM: finishing what runs")
        facts = job.wait_end()
        require((facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), f"{facts}\n{text_of(job.log)}")
        check_nothing_left()
        note(f"ended {facts['RunTime']} after its start, with a limit of a minute")

    def check_requeue(self):
        job = Job("--cache-keep")
        job.wait_ready()
        first = job.chat()
        ask("scontrol", "requeue", job.id)
        job.wait_ready(2)
        second = job.chat()
        require(essence(second) == essence(first) == self.calm, "other than before")
        cached = [answer["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in (first, second)]
        require(cached[0] == 0 and cached[1] > 0, f"{cached} tokens were cached")
        note(f"the second life found {cached[1]} of {second['usage']['prompt_tokens']} prompt tokens in its cache")
        ask("scancel", job.id)
        job.wait_end()
        done = subprocess.run([program("kvasir"), "cache", "drop", "--instance", f"job-{job.id}"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=JOB_S_MAX)
        require(done.returncode == 0, done.stdout)
        check_nothing_left()


def inside(options):
    """In the namespaces."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", ADDRESS + "/32", "dev", "lo"], check=True)
    socket.sethostname(NODE)
    tap, run = Tap(), Run()
    if tap.case("slurmctld and slurmd come up", run.check_up) and tap.case("the answer without Slurm", run.check_calm):
        tap.case("a job serves, and ends cleanly on scancel", run.check_job, 1)
        if mpi_is_built():
            tap.case("so does one of two ranks", run.check_job, 2)
        else:
            tap.skip("so does one of two ranks", "this build has no MPI")
        if options.long:
            tap.case("the time limit's signal comes early enough", run.check_limit)
            tap.case("a requeued job finds its cache", run.check_requeue)
    if tap.failed and run.cluster:
        for name in ("slurmctld", "slurmd"):
            note(f"{name}:\n" + text_of(f"{HOME}/{name}.log")[-3000:])
    tap.done()


def require_cluster():
    """Skips where this machine cannot have one."""
    model_path()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise Skip(f"no {missing[0]} here (Debian: slurmctld slurmd slurm-client iproute2)")
    done = subprocess.run([*NAMESPACES, "true"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if os.geteuid() != 0 or done.returncode != 0:
        raise Skip("namespaces need root: " + done.stderr.decode(errors="replace").strip())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options)
    try:
        require_cluster()
    except Skip as reason:
        tap = Tap()
        tap.skip("a Slurm job", reason)
        tap.done()
    # The shell is the first process there: it reaps what the daemons of Slurm leave behind.
    command = [*NAMESPACES, "sh", "-c", '"$@"; exit $?', "sh", sys.executable, os.path.abspath(__file__), "--inside",
               *sys.argv[1:]]
    sys.stdout.flush()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    try:
        sys.exit(child.wait(RUN_S_MAX))
    finally:
        child.kill()  # and with it everything in there


if __name__ == "__main__":
    main()
