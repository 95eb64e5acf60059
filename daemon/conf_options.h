/* SPDX-License-Identifier: Apache-2.0 */
/* conf_options - every setting of kvasird, once. Fields of struct conf, flags, environment variables,
 * lines of the INI file, --help, the example file and error texts all come from this table.
 *
 *   X(kind, field, flag, section, default, min, max, argument, help)
 *
 * kind is one of
 *   TEXT    char *             never NULL; "" where the default is empty
 *   KEYS    struct conf_list   secrets: never printed, hidden in argv; repeatable, or commas between
 *   COUNT   uint32_t           whole number in [min, max]
 *   NUMBER  uint64_t           whole number in [min, max]
 *   SIZE    uint64_t           bytes in [min, max], with K, M, G or T for their powers of 1024
 *   SWITCH  bool               --flag, --no-flag, flag = true | false
 *   CHOICE  uint32_t           index of the word in argument, which is "word|word|..."
 *
 * The flag is also the name in the INI file, under [section], and gives the environment variable:
 * --max-num-seqs, max-num-seqs = 64, KVASIR_MAX_NUM_SEQS. Flags, and their defaults where there is no
 * reason to differ, are named as vLLM names them. */
#ifndef KVASIR_DAEMON_CONF_OPTIONS_H
#define KVASIR_DAEMON_CONF_OPTIONS_H

/* clang-format off */
#define CONF_OPTIONS(X) \
    X(TEXT, model, "model", "model", "", 0, 0, "PATH", \
      "The GGUF file to serve. Also the argument without a flag.") \
    X(TEXT, served_model_name, "served-model-name", "model", "", 0, 0, "NAME", \
      "The model's id in the API. Empty: the file's name without .gguf.") \
    X(COUNT, max_model_len, "max-model-len", "model", "0", 0, MODEL_CONTEXT_MAX, "TOKENS", \
      "Longest prompt and output together, in tokens. 0: what the model was trained for.") \
    \
    X(TEXT, host, "host", "server", "127.0.0.1", 0, 0, "ADDRESS", \
      "IP address to listen on, or localhost. Addresses that other machines can reach need an API key. " \
      "Not used when systemd passes sockets.") \
    X(COUNT, port, "port", "server", "8000", 0, 65535, "PORT", \
      "TCP port to listen on. 0: the system chooses one, and the log names it.") \
    X(TEXT, uds, "uds", "server", "", 0, 0, "PATH", \
      "Also listen on this unix socket.") \
    X(SIZE, max_body_bytes, "max-body-bytes", "server", "8M", 1 << 10, 1 << 30, "SIZE", \
      "Longest request body. Longer ones are answered with 413.") \
    X(COUNT, max_connections, "max-connections", "server", "1024", 1, 65535, "COUNT", \
      "Connections open at once. Further ones wait in the kernel's queue.") \
    X(COUNT, header_timeout_s, "header-timeout", "server", "10", 1, 86400, "SECONDS", \
      "Time for a client to send a whole request head.") \
    X(COUNT, body_timeout_s, "body-timeout", "server", "60", 1, 86400, "SECONDS", \
      "Time for a client to send a whole request body.") \
    X(COUNT, idle_timeout_s, "idle-timeout", "server", "75", 1, 86400, "SECONDS", \
      "Time that a kept-alive connection may be silent between requests.") \
    X(COUNT, slow_reader_timeout_s, "slow-reader-timeout", "server", "30", 1, 86400, "SECONDS", \
      "Time that a client may leave a response unread before it is dropped.") \
    \
    X(KEYS, api_keys, "api-key", "auth", "", 0, 0, "KEY", \
      "Requests must carry one of these keys (Authorization: Bearer KEY). May be repeated, or hold several " \
      "with commas between. Better in a file: arguments can be seen by other users until they are hidden.") \
    X(TEXT, api_key_file, "api-key-file", "auth", "", 0, 0, "PATH", \
      "File of further keys, one a line; # begins a comment.") \
    \
    X(COUNT, max_num_seqs, "max-num-seqs", "scheduler", "64", 1, PLAN_SEQS_MAX, "COUNT", \
      "Sequences computed together, by all workers.") \
    X(COUNT, max_num_batched_tokens, "max-num-batched-tokens", "scheduler", "512", 1, PLAN_TOKENS_MAX, "TOKENS", \
      "Tokens computed in one step; what decoding leaves of them goes to prompts. At least max-num-seqs.") \
    X(COUNT, itl_target_ms, "itl-target-ms", "scheduler", "0", 0, 60000, "MILLISECONDS", \
      "Time between two tokens that prompts may not lengthen beyond: with sequences decoding, a step takes as many " \
      "prompt tokens as its predicted time allows, and at least a few. 0: one and a half times what it takes without " \
      "prompts, and more where many requests wait for their first token. 60000: no bound, prompts first.") \
    X(COUNT, max_num_queued_reqs, "max-num-queued-reqs", "scheduler", "1024", 1, 1 << 20, "COUNT", \
      "Requests that may wait. Further ones are answered with 429 and Retry-After.") \
    X(COUNT, priority_ageing_s, "priority-ageing", "scheduler", "30", 1, 86400, "SECONDS", \
      "Waiting for so long makes up for a priority lower by one, so that the least urgent is served too.") \
    X(COUNT, request_timeout_s, "request-timeout", "scheduler", "0", 0, 86400 * 365, "SECONDS", \
      "Longest time of a request, from its arrival to its end; past it it is answered with 408. Requests may set a " \
      "shorter one (timeout, or X-Request-Timeout). 0: no bound.") \
    X(COUNT, shutdown_timeout_s, "shutdown-timeout", "scheduler", "60", 0, 86400, "SECONDS", \
      "Time that running requests have to finish after SIGTERM or SIGINT. Less than whoever sent it waits before it kills: " \
      "90 seconds under kvasird.service, Slurm's KillWait, 30, in a batch job.") \
    X(NUMBER, seed, "seed", "scheduler", "0", 0, INT64_MAX, "NUMBER", \
      "Seed of requests that bring none: together with the request's number it gives their random numbers.") \
    \
    X(COUNT, block_size, "block-size", "cache", "16", 1, 1 << 10, "TOKENS", \
      "Tokens in one page of the cache. Only 16 is built.") \
    X(SIZE, kv_cache_memory_bytes, "kv-cache-memory-bytes", "cache", "0", 0, UINT64_C(1) << 46, "SIZE", \
      "Shared memory for keys and values, taken whole at start. 0: chosen from the model and the memory free.") \
    X(CHOICE, kv_cache_dtype, "kv-cache-dtype", "cache", "auto", 0, 0, "auto|f16|bf16|q8|q4", \
      "Element type of cached keys and values. auto is f16. q8 takes a little more than half its memory, q4 little " \
      "more than a quarter, with a scale for each token and head.") \
    X(SWITCH, cache_keep, "cache-keep", "cache", "false", 0, 0, "", \
      "At a clean stop, leave the cache in shared memory for the next start, which then answers known prompts at " \
      "once; kvasir cache drop frees it. A daemon that dies leaves it in any case. kvasird.service sets this, so " \
      "that systemctl restart keeps the cache.") \
    X(TEXT, cache_file, "cache-file", "cache", "", 0, 0, "PATH", \
      "File that keeps cached pages as well, so that prefixes are still there when memory ran out of room for them, and " \
      "after a reboot. It holds what users sent; only this user may read it. Empty: none.") \
    X(SIZE, cache_file_bytes, "cache-file-bytes", "cache", "8G", 1 << 16, UINT64_C(1) << 46, "SIZE", \
      "Size of that file, taken whole. Another size than before empties it.") \
    X(COUNT, cache_tenant_share, "cache-tenant-share", "cache", "0", 0, 100, "PERCENT", \
      "Part of the cache that each API key keeps: while it has no more than that, requests with other keys do not " \
      "displace its pages. 0: none. At most 100 for all keys together. Keys never share cached pages.") \
    X(TEXT, cache_pin, "cache-pin", "cache", "", 0, 0, "PATH", \
      "A prefix that stays in the cache, or a folder of such files: text, or (.json) the body of a request with messages " \
      "or prompt. Computed at start where it is not cached. Empty: none.") \
    X(COUNT, cache_pin_share, "cache-pin-share", "cache", "25", 0, 100, "PERCENT", \
      "Part of the cache that pinned prefixes may take, one copy for each API key. Where they would take more kvasird " \
      "does not start.") \
    X(COUNT, cache_retention_share, "cache-retention-share", "cache", "50", 0, 100, "PERCENT", \
      "Part of the cache that requests may keep longer than others by hints (prompt_cache_retention, cache_control, " \
      "kv_cache_retention_config), divided evenly between the API keys. Of more, what was hinted at first counts as " \
      "all else. 0: such hints are not taken.") \
    \
    X(TEXT, instance, "instance", "process", "default", 0, 0, "NAME", \
      "Names this daemon's shared memory, so that several can run on one machine: 1 to 32 of a-z 0-9 _ -.") \
    X(COUNT, threads, "threads", "process", "0", 0, 1024, "COUNT", \
      "Threads of each worker. 0: one for each core that it may use, within the control group's quota; several " \
      "workers divide them.") \
    X(TEXT, cpus, "cpus", "process", "", 0, 0, "LIST", \
      "CPUs that are this daemon's own: 0-7,16 or node:1 for those of a NUMA node. It and its worker use no " \
      "others, take memory near them, and each thread of the worker stays on one; several workers divide them. Empty: " \
      "all, unpinned.") \
    X(CHOICE, weights, "weights", "process", "shared", 0, 0, "shared|private", \
      "Where the worker keeps its weights, packed for this machine. shared: in /dev/shm, where every worker of " \
      "the same model finds them, and its own successor too; private: in its own memory.") \
    X(COUNT, tensor_parallel_size, "tensor-parallel-size", "process", "1", 1, RANKS_MAX, "COUNT", \
      "Processes (ranks) that one copy of the model is split over, started by Open MPI's mpirun; they share the " \
      "threads of their host out among them. Answers are the same, bit for bit, for any number.") \
    X(TEXT, hosts, "hosts", "process", "", 0, 0, "NAME[:COUNT],...", \
      "Where the ranks of --tensor-parallel-size run, and how many on each; without counts as even as can be. The first is " \
      "this host. Each of the others has kvasird --agent of the same instance and user running, the same model and worker " \
      "program under the same paths, and is reached by Open MPI as its user has set that up (ssh, or Slurm). Threads are " \
      "those of each host. Empty: all here.") \
    X(TEXT, hostfile, "hostfile", "process", "", 0, 0, "PATH", \
      "The same in a file of Open MPI's form: a host a line, with slots=COUNT behind it or without.") \
    X(SWITCH, agent, "agent", "process", "false", 0, 0, "", \
      "Serve no clients, but be the further host of another one's --hosts: own the shared memory of the ranks that run here, " \
      "so that their cached pages outlive them. Of the other settings only instance, cache-keep and log-level matter.") \
    X(COUNT, data_parallel_size, "data-parallel-size", "process", "1", 1, GROUPS_MAX, "COUNT", \
      "Workers that compute beside each other, each with the whole model and CPUs of its own, on one cache: what one " \
      "has computed all find, and what one that dies was at the others go on with. Packed weights are shared, by those " \
      "of one NUMA node. One for each NUMA node is the natural number.") \
    X(TEXT, worker_path, "worker-path", "process", "", 0, 0, "PATH", \
      "The worker program. Empty: kvasir-worker beside kvasird, else the installed one.") \
    \
    X(CHOICE, log_level, "log-level", "log", "info", 0, 0, "error|warn|info|debug", \
      "The least important lines to log.") \
    X(SWITCH, progress, "progress", "log", "false", 0, 0, "", \
      "Print the progress of the start on stderr in words for people.")
/* clang-format on */

#endif
