#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_clients - the official OpenAI clients, unmodified, from their registries.

Installs the Python and the npm package `openai` into a temporary directory (kept between runs under
$KVASIR_CLIENTS where that is set) and runs the same programs a user would write. Skips, with the reason, where
the registry cannot be reached."""
import json
import os
import shutil
import subprocess
import venv

from kvasir_test import (Daemon, Skip, Tap, die_with_parent, expect, model_path, need, note, temporary_directory)

INSTALL_S_MAX = 240
RUN_S_MAX = 120

PYTHON = r"""
import json, openai, sys
base, key, model = sys.argv[1:]
client = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
out = {"version": openai.__version__}
out["models"] = [m.id for m in client.models.list()]
out["model"] = client.models.retrieve(model).id
ask = dict(model=model, messages=[{"role": "user", "content": "What is the capital of France?"}], max_tokens=24,
           temperature=0)
chat = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
out["chat"] = chat.choices[0].message.content
out["role"] = chat.choices[0].message.role
out["finish"] = chat.choices[0].finish_reason
out["usage"] = [chat.usage.total_tokens, chat.usage.prompt_tokens + chat.usage.completion_tokens]
out["cached"] = chat.usage.prompt_tokens_details.cached_tokens
out["logprobs"] = [len(chat.choices[0].logprobs.content), chat.usage.completion_tokens]
chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
out["chat_stream"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
out["stream_usage"] = chunks[-1].usage.total_tokens
done = dict(model=model, prompt="The capital of France is", max_tokens=8, temperature=0)
out["text"] = client.completions.create(**done).choices[0].text
out["text_stream"] = "".join(c.choices[0].text for c in client.completions.create(**done, stream=True)
                             if c.choices)
def error_of(call, **fields):
    try:
        call(**fields)
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.param]
out["errors"] = [
    error_of(client.chat.completions.create, **{**ask, "temperature": 1000}),
    error_of(client.chat.completions.create, **{**ask, "model": "other"}),
    error_of(openai.OpenAI(base_url=base, api_key="wrong", max_retries=0).models.list),
]
print(json.dumps(out))
"""

NODE = r"""
import OpenAI from 'openai';
import { VERSION } from 'openai/version';
const [base, key, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const out = { version: VERSION, models: [] };
for await (const m of client.models.list()) out.models.push(m.id);
out.model = (await client.models.retrieve(model)).id;
const ask = { model, messages: [{ role: 'user', content: 'What is the capital of France?' }], max_tokens: 24,
              temperature: 0 };
const chat = await client.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 2 });
out.chat = chat.choices[0].message.content;
out.role = chat.choices[0].message.role;
out.finish = chat.choices[0].finish_reason;
out.usage = [chat.usage.total_tokens, chat.usage.prompt_tokens + chat.usage.completion_tokens];
out.cached = chat.usage.prompt_tokens_details.cached_tokens;
out.logprobs = [chat.choices[0].logprobs.content.length, chat.usage.completion_tokens];
out.chat_stream = '';
for await (const chunk of await client.chat.completions.create(
        { ...ask, stream: true, stream_options: { include_usage: true } })) {
    if (chunk.choices.length) out.chat_stream += chunk.choices[0].delta.content ?? '';
    else out.stream_usage = chunk.usage.total_tokens;
}
const done = { model, prompt: 'The capital of France is', max_tokens: 8, temperature: 0 };
out.text = (await client.completions.create(done)).choices[0].text;
out.text_stream = '';
for await (const chunk of await client.completions.create({ ...done, stream: true }))
    if (chunk.choices.length) out.text_stream += chunk.choices[0].text;
async function errorOf(call) {
    try { await call(); } catch (e) { return [e.constructor.name, e.status, e.param ?? null]; }
}
out.errors = [
    await errorOf(() => client.chat.completions.create({ ...ask, temperature: 1000 })),
    await errorOf(() => client.chat.completions.create({ ...ask, model: 'other' })),
    await errorOf(() => new OpenAI({ baseURL: base, apiKey: 'wrong', maxRetries: 0 }).models.list()),
];
console.log(JSON.stringify(out));
"""


def run(command, folder, limit_s):
    """-> (exit status, stdout, stderr)"""
    try:
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, timeout=limit_s, preexec_fn=die_with_parent)
    except subprocess.TimeoutExpired:
        return -1, "", f"not within {limit_s} s"
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def install(command, folder):
    status, _out, text = run(command, folder, INSTALL_S_MAX)
    if status != 0:
        last = (text.strip().splitlines() or ["no reason given"])[-1]
        raise Skip(f"{os.path.basename(command[0])} cannot install openai: {last[:120]}")


def python_command(folder):
    interpreter = os.path.join(folder, "venv", "bin", "python")
    if not os.path.exists(interpreter):
        try:
            venv.create(os.path.join(folder, "venv"), with_pip=True)
        except (subprocess.CalledProcessError, OSError) as reason:
            raise Skip(f"no venv with pip here: {reason}")
    if run([interpreter, "-c", "import openai"], folder, RUN_S_MAX)[0] != 0:
        install([interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "openai"],
                folder)
    return [interpreter, "-c", PYTHON]


def node_command(folder):
    if not shutil.which("npm") or not shutil.which("node"):
        raise Skip("no node and npm here")
    if not os.path.exists(os.path.join(folder, "node_modules", "openai")):
        install(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "openai"], folder)
    path = os.path.join(folder, "client.mjs")
    with open(path, "w") as file:
        file.write(NODE)
    return ["node", path]


def check_client(d, make_command, folder):
    command = make_command(folder)
    base = "http://%s:%d/v1" % d.address
    status, out, text = run([*command, base, d.key, d.model], folder, RUN_S_MAX)
    expect(status, 0, text[-2000:])
    got = json.loads(out)
    note(f"openai {got['version']} of {os.path.basename(command[0])}: {got['chat']!r}")
    expect((got["models"], got["model"]), ([d.model], d.model), "models")
    expect(bool(got["chat"]), True, "an answer")
    expect(got["role"], "assistant")
    expect(got["finish"] in ("stop", "length"), True, got["finish"])
    for pair in ("usage", "logprobs"):
        expect(got[pair][0], got[pair][1], pair)
    expect(got["cached"] >= 0, True, "cached tokens")
    expect(got["chat_stream"], got["chat"], "streamed chat")
    expect(got["stream_usage"], got["usage"][0], "usage of the stream")
    expect(got["text_stream"], got["text"], "streamed completion")
    expect(got["errors"], [["BadRequestError", 400, "temperature"], ["NotFoundError", 404, "model"],
                           ["AuthenticationError", 401, None]], "errors")


def main():
    tap = Tap()
    names = (("the Python package streams and completes", python_command),
             ("the npm package streams and completes", node_command))
    model = need(names, model_path)
    with Daemon(model, "--api-key", "a-key") as d, temporary_directory() as temporary:
        d.key = "a-key"
        d.model = d.get("/v1/models")["data"][0]["id"]
        folder = os.environ.get("KVASIR_CLIENTS") or temporary
        os.makedirs(folder, exist_ok=True)
        for name, make_command in names:
            tap.case(name, check_client, d, make_command, folder)
    tap.done()


if __name__ == "__main__":
    main()
