#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# client_e2e - every subcommand of `kvasir` against a live server, and the answers checked.
#
#   KVASIR_URL           the server (required; a kvasird, or another OpenAI-compatible one)
#   KVASIR               the command (./kvasir)
#   KVASIR_E2E_UDS       a unix socket of the same server: also asked (optional)
#   KVASIR_E2E_INSTANCE  its pool is audited with `kvasir fsck` (optional)
#   KVASIR_E2E_MODEL     a GGUF file: `kvasir serve` is started on it and stopped (optional)
#
# Prints "ok N - name" or "not ok N - name" with the reason; exit status 0, 1, or 77 without a server.
# Waits are for events: a fifo that delivers, a process that ends.
set -u
K=${KVASIR:-./kvasir}
[ -n "${KVASIR_URL:-}" ] || { echo "1..0 # SKIP KVASIR_URL names no server"; exit 77; }
work=$(mktemp -d) || exit 1
number=0
failed=0
children=

cleanup() {
    for child in $children; do kill "$child" 2>/dev/null; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

result() { # result STATUS NAME: 0 is good
    number=$((number + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $number - $2"
    else
        failed=1
        echo "not ok $number - $2"
        sed 's/^/# out: /' "$work/out"
        sed 's/^/# err: /' "$work/err"
    fi
}

run() { # run WANTED_STATUS COMMAND...: output to $work/out and $work/err; true when the status is as wanted
    wanted=$1
    shift
    "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    [ "$status" -eq "$wanted" ] && return 0
    echo "exit status $status, wanted $wanted" >>"$work/err"
    return 1
}

says() { grep -q -e "$1" "$work/out"; }
complains() { grep -q -e "$1" "$work/err"; }

run 0 "$K" version && says '^kvasir [0-9]'
result $? "version names a version"
run 0 "$K" help && says '^  bench '
result $? "help lists the commands"

# ---- what is there ----

run 0 "$K" status && says '^ready      yes'
result $? "status says ready"
run 0 "$K" status --json && says '"healthy":true'
result $? "status tells the same as JSON"
run 0 "$K" models && says .
result $? "models lists one"
model=$(head -n 1 "$work/out" | sed 's/ *[0-9]* tokens of context$//')
run 0 "$K" models --json && says '"data"'
result $? "models hands on the server's list"
if [ -n "${KVASIR_E2E_UDS:-}" ]; then
    run 0 "$K" status --uds "$KVASIR_E2E_UDS" && says '^ready      yes'
    result $? "status over the unix socket"
    run 0 "$K" complete --uds "$KVASIR_E2E_UDS" --max-tokens 4 "The sea is" && says .
    result $? "complete over the unix socket"
fi

# ---- text ----

run 0 "$K" complete --temperature 0 --max-tokens 12 "The capital of France is" && says .
result $? "complete continues a text"
cp "$work/out" "$work/first"
run 0 "$K" complete --temperature 0 --max-tokens 12 "The capital of France is" && cmp -s "$work/out" "$work/first"
result $? "the same request gives the same text"
run 0 "$K" complete --json --temperature 0 --max-tokens 3 "One two three" && says '"completion_tokens": *3' && says '"length"'
result $? "complete --json tells usage and finish reason"
run 0 "$K" complete --temperature 1 --seed 11 --max-tokens 16 "Once upon a time" && cp "$work/out" "$work/first" &&
    run 0 "$K" complete --temperature 1 --seed 11 --max-tokens 16 "Once upon a time" && cmp -s "$work/out" "$work/first"
result $? "the same seed gives the same text"
run 0 "$K" complete --model "$model" --max-tokens 2 "a" && says .
result $? "the model may be named"
run 0 "$K" chat --temperature 0 --max-tokens 24 --system "Answer in one word." "What is the capital of Italy?" && says .
result $? "chat answers an argument"
echo "What is the capital of Italy?" | "$K" chat --temperature 0 --max-tokens 24 --system "Answer in one word." \
    >"$work/out" 2>"$work/err" && says .
result $? "chat answers a pipe"
run 0 "$K" chat --json --max-tokens 4 "Hi" && says '"chat.completion"' && says '"assistant"'
result $? "chat --json hands on the whole answer"
printf 'My name is Bob.\n/stats\nWhat is my \\\nname?\n/reset\n/system Be brief.\n/nope\nHi\n/stats\n/quit\nnot reached\n' |
    "$K" chat --interactive --temperature 0 --max-tokens 16 >"$work/out" 2>"$work/err" &&
    says '1 answers' && says '3 answers' && says 'no such command' && says 'the conversation starts anew'
result $? "chat converses and obeys its commands"

# ---- stopping ----

mkfifo "$work/fifo" "$work/typed"
"$K" complete --extra '{"ignore_eos":true}' --max-tokens 1500 "Once upon a time" >"$work/fifo" 2>"$work/err" </dev/null &
pid=$!
children="$children $pid"
exec 3<"$work/fifo"
dd bs=1 count=1 <&3 >"$work/out" 2>/dev/null # an answer has begun
kill -INT "$pid"
cat <&3 >>"$work/out"
wait "$pid"
[ $? -eq 1 ] && complains 'stopped'
result $? "Ctrl-C ends an answer"
exec 3<&-

# stdout has a reader of its own, so that a stopped answer cannot be held up by a full pipe.
"$K" chat --interactive --extra '{"ignore_eos":true}' --max-tokens 1500 <"$work/typed" 2>"$work/err" >"$work/fifo" &
pid=$!
children="$children $pid"
exec 4>"$work/typed" 3<"$work/fifo"
echo "Tell me a long story." >&4
# Past the greeting, its newline and the prompt, the next byte is the answer's.
IFS= read -r greeting <&3
dd bs=1 count=3 <&3 >/dev/null 2>&1
kill -INT "$pid"
printf '/stats\n/quit\n' >&4
exec 4>&-
cat <&3 >"$work/out"
wait "$pid"
[ $? -eq 0 ] && says '(stopped)' && says '0 answers'
result $? "Ctrl-C in a conversation ends the answer, not the conversation"
exec 3<&-

# ---- load ----

run 0 "$K" bench --requests 6 --concurrency 3 --prompt-tokens 32 --shared-tokens 16 --output-tokens 8 --json &&
    says '"requests_ok":6' && says '"requests_failed":0' && says '"ttft_ms"' && says '"itl_ms"' && says '"e2e_ms"'
result $? "bench measures streams of words"
run 0 "$K" bench --requests 4 --concurrency 2 --prompt-tokens 40 --output-tokens 8 --token-ids --vocab 1000 --ignore-eos --json &&
    says '"input_tokens":16[0-4]' && says '"output_tokens":32'
result $? "bench measures token prompts of exact length"
run 0 "$K" bench --requests 2 --concurrency 2 --prompt-tokens 8 --output-tokens 4 --chat --no-stream && says '2 good, 0 failed'
result $? "bench measures whole chat answers"
run 0 "$K" bench --requests 1000 --concurrency 2 --prompt-tokens 8 --output-tokens 4 --duration 1 && says ' 0 failed'
result $? "bench keeps to its duration"

# ---- failures ----

run 69 "$K" status --url http://127.0.0.1:1 && complains 'kvasir serve MODEL.gguf'
result $? "nobody there: what to do is said"
run 64 "$K" complete --nope x && complains '--help'
result $? "wrong use is status 64"
run 64 "$K" nope && complains 'kvasir help'
result $? "an unknown command is status 64"
run 64 "$K" bench --url http://192.0.2.1 && complains 'allow-remote'
result $? "bench refuses other machines"
run 1 "$K" complete --extra '{"max_tokens":"many"}' x && complains 400
result $? "a refused request is told with the server's words"

# ---- what only our own server has ----

if [ -n "${KVASIR_E2E_INSTANCE:-}" ]; then
    run 0 "$K" fsck --instance "$KVASIR_E2E_INSTANCE"
    result $? "fsck finds the pool clean"
fi
if [ -n "${KVASIR_E2E_MODEL:-}" ]; then
    "$K" serve --port 0 --uds "$work/socket" --instance "e2e-$$" "$KVASIR_E2E_MODEL" >"$work/out" 2>"$work/fifo" </dev/null &
    pid=$!
    children="$children $pid"
    : >"$work/err"
    # The readable start-up goes to stderr; the address is said when requests are taken. What follows is
    # read to its end, so that the server never writes into a closed pipe.
    exec 5<"$work/fifo"
    while IFS= read -r line <&5; do
        echo "$line" >>"$work/err"
        case $line in *http://*) break ;; esac
    done
    cat <&5 >>"$work/err" &
    children="$children $!"
    exec 5<&-
    "$K" status --uds "$work/socket" >"$work/out" 2>>"$work/err" && says '^ready      yes'
    result $? "serve starts a server that takes requests"
    kill -INT "$pid"
    wait "$pid"
    [ $? -eq 0 ] && [ ! -e "$work/socket" ]
    result $? "serve ends well on Ctrl-C"
fi

echo "1..$number"
exit $failed
