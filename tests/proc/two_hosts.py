# SPDX-License-Identifier: Apache-2.0
"""two_hosts - two "hosts" on one machine, for tests that need more than one: each with its own network, /dev/shm, /tmp, host
name and System V names, joined by a pair of virtual cards, or by a wire that delays (a program between two tap devices: the
kernel's own delays, netem, are not everywhere). Mpirun reaches them through a launch agent that needs no password.

Nothing has a name outside: namespaces, cards and mounts go with the last process in them, and all processes in them go with
the test, however it ends. Needs root."""
import ctypes
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from kvasir_test import (ROOT, Daemon, Skip, build_dir, die_with_parent, process_is_alive,  # noqa: E402
                         program)

TOOLS = ("ip", "nsenter", "unshare", "mount")
CLONE_NEWNET, TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x40000000, 0x400454ca, 2, 0x1000
SETUP = r"""set -e
name=$1 hosts=$2; shift 2
hostname "$name"
mount -t tmpfs none /dev/shm
mkdir -p /mnt
mount -t tmpfs none /mnt
mkdir -m 1777 /mnt/tmp
for path; do case $path in /tmp/*) mkdir -p "/mnt$path"; mount --bind "$path" "/mnt$path" ;; esac; done
mount --bind "$hosts" /etc/hosts
mount --rbind /mnt/tmp /tmp
umount -l /mnt
ip link set lo up
echo ready
exec sleep infinity
"""
AGENT = """#!/bin/sh
host=$1; shift
case $host in
{cases}
*) echo "launch agent: no host $host" >&2; exit 255 ;;
esac
exec nsenter -t "$pid" -n -m -u -i sh -c "$*"
"""


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise Skip(f"{' '.join(command)}: {done.stdout.decode(errors='replace').strip()}")


class Host:
    def __init__(self, name, address, hosts_file, kept):
        self.name, self.address = name, address
        command = ["unshare", "-n", "-m", "-u", "-i", "--propagation", "private", "sh", "-c", SETUP, "sh", name, hosts_file]
        self.holder = subprocess.Popen(command + kept, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
        line = self.holder.stdout.readline().decode(errors="replace").strip()
        if line != "ready":
            self.holder.kill()
            raise Skip(f"no namespaces here: {line}")
        self.net = os.readlink(f"/proc/{self.holder.pid}/ns/net")

    @property
    def inside(self):
        return ("nsenter", "-t", str(self.holder.pid), "-n", "-m", "-u", "-i", "--wd=/")

    def run(self, *command):
        run(*self.inside, *command)

    def path(self, name):
        """Where a path of this host is found from outside."""
        return os.path.join("/proc", str(self.holder.pid), "root", name.lstrip("/"))

    def processes(self, name=""):
        """Pids of ours in here, but for the holder."""
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/net") == self.net and process_is_alive(int(entry)):
                    with open(f"/proc/{entry}/comm") as file:
                        comm = file.read().strip()
                    if int(entry) != self.holder.pid and comm.startswith(name):
                        found.append(int(entry))
            except OSError:
                pass
        return found

    def left(self):
        """Names in /dev/shm and /tmp that are an instance's, or weights."""
        return [f"{folder}/{name}" for folder in ("/dev/shm", "/tmp") for name in os.listdir(self.path(folder))
                if "kvasir-" in name and not name.startswith("kvasir-hosts-") or "ompi" in name or "vader" in name]

    def end(self):
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.holder.kill()
        self.holder.wait()


class Wire:
    """Carries frames between a tap device of each host, each after delay_s; a process of its own."""

    def __init__(self, hosts, delay_s):
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                die_with_parent()
                self.carry([self.tap(host) for host in hosts], delay_s, told)
            except OSError as failure:
                os.write(told, str(failure).encode())
            finally:
                os._exit(1)
        os.close(told)
        answer = os.read(ready, 256)
        os.close(ready)
        if answer != b"1":
            raise Skip(f"no delayed wire here, tap devices: {answer.decode(errors='replace')}")

    @staticmethod
    def tap(host):
        libc = ctypes.CDLL(None, use_errno=True)
        space = os.open(f"/proc/{host.holder.pid}/ns/net", os.O_RDONLY)
        if libc.setns(space, CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns")
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)  # belongs to the network it is opened in
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"eth0", IFF_TAP | IFF_NO_PI))
        return device

    @staticmethod
    def carry(taps, delay_s, told):
        os.write(told, b"1")
        waiting = []  # (when, to, frame), in order: every frame is delayed alike
        while True:
            timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
            for tap in select.select(taps, [], [], timeout)[0]:
                try:
                    waiting.append((time.monotonic() + delay_s, taps[tap == taps[0]], os.read(tap, 65536)))
                except OSError:
                    pass  # the device is down
            while waiting and waiting[0][0] <= time.monotonic():
                _, to, frame = waiting.pop(0)
                try:
                    os.write(to, frame)
                except OSError:
                    pass  # as a cable would

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class TwoHosts:
    """Context manager. delay_s: None for a pair of virtual cards, else of a wire, each way."""

    def __init__(self, delay_s=None, kept=()):
        if os.geteuid() != 0:
            raise Skip("only root makes hosts of namespaces")
        for tool in TOOLS:
            if subprocess.run(["which", tool], stdout=subprocess.DEVNULL).returncode:
                raise Skip(f"no {tool} here")
        self.folder = tempfile.TemporaryDirectory(prefix="kvasir-hosts-")
        self.hosts_file = os.path.join(self.folder.name, "hosts")
        with open(self.hosts_file, "w") as file:
            file.write("127.0.0.1 localhost\n10.99.0.1 kva\n10.99.0.2 kvb\n")
        kept = [self.folder.name, build_dir(), ROOT, *kept]
        self.hosts, self.wire, self.daemons = [], None, []
        try:
            for i, name in enumerate(("kva", "kvb")):
                self.hosts.append(Host(name, f"10.99.0.{i + 1}", self.hosts_file, kept))
            self.a, self.b = self.hosts
            self.join(delay_s)
        except BaseException:
            self.end()
            raise
        self.agent_path = os.path.join(self.folder.name, "launch")
        with open(self.agent_path, "w") as file:
            file.write(AGENT.format(cases="\n".join(f"{host.name}) pid={host.holder.pid} ;;" for host in self.hosts)))
        os.chmod(self.agent_path, 0o755)

    def join(self, delay_s):
        if delay_s is None:
            self.a.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(self.b.holder.pid))
        else:
            self.wire = Wire(self.hosts, delay_s)
        for host in self.hosts:
            host.run("ip", "addr", "add", host.address + "/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")

    def cut(self):
        self.b.run("ip", "link", "set", "eth0", "down")

    def restore(self):
        self.b.run("ip", "link", "set", "eth0", "up")

    def environment(self):
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "OMPI_MCA_plm_rsh_agent": self.agent_path, "XDG_RUNTIME_DIR": "", "RUNTIME_DIRECTORY": ""}

    def round_trip_s(self, count=200):
        """Of a byte over TCP, the median."""
        echo = ("import socket; s = socket.create_server(('10.99.0.2', 5001)); print('up', flush=True); c, _ = s.accept()\n"
                "c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
                "while c.send(c.recv(1)): pass\n")
        ask = ("import socket, time; s = socket.create_connection(('10.99.0.2', 5001)); t = []\n"
               "s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
               f"for i in range({count}):\n"
               "    b = time.perf_counter(); s.send(b'x'); s.recv(1); t.append(time.perf_counter() - b)\n"
               "print(sorted(t)[len(t) // 2])\n")
        server = subprocess.Popen([*self.b.inside, sys.executable, "-c", echo], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        server.stdout.readline()
        try:
            return float(subprocess.check_output([*self.a.inside, sys.executable, "-c", ask], timeout=60))
        finally:
            server.kill()
            server.wait()

    def daemon(self, model, *flags, hosts="kva,kvb", ranks=2, **options):
        d = HostDaemon(self, model, "--tensor-parallel-size", ranks, "--hosts", hosts, *flags, **options)
        self.daemons.append(d)
        return d

    def agent(self, instance, *flags):
        return Agent(self.b, instance, *flags)

    def end(self):
        for host in self.hosts:
            host.end()
        if self.wire:
            self.wire.end()
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class HostDaemon(Daemon):
    """A daemon on host a, reached through a socket in a folder that all share."""

    def __init__(self, two, model, *flags, wait=True, env=None, **options):
        self.host = two.a
        self.path = os.path.join(two.folder.name, f"d{len(two.daemons)}.sock")
        super().__init__(model, *flags, "--uds", self.path, env={**two.environment(), **(env or {})},
                         wrapper=self.host.inside, wait=wait, **options)

    def wait_ready(self):
        super().wait_ready()
        self.address = self.path

    def fsck(self):
        done = subprocess.run([*self.host.inside, program("kvasir"), "fsck", "--instance", self.instance],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        return [] if done.returncode == 0 else done.stdout.decode(errors="replace").splitlines()


class Agent(Daemon):
    """kvasird --agent of an instance on host b."""

    def __init__(self, host, instance, *flags):
        self.host = host
        super().__init__("--agent", *flags, instance=instance, wrapper=host.inside, wait=False, port=False)
        self.wait_line("waiting for ranks")

    def fresh(self):
        """What a reboot of its host would leave: nothing."""
        folder = self.host.path("/dev/shm")
        for name in os.listdir(folder):
            os.unlink(os.path.join(folder, name))
