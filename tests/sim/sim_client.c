/* SPDX-License-Identifier: Apache-2.0 */
/* sim_client - see sim.h. Requests share fronts of any length, so that hits end anywhere in a page. */
#include "tests/sim/sim.h"

#include <string.h>

#include "common/base/check.h"

enum { FAMILIES = 4 };

static const struct plan_bias biases[] = {{1, 1.0F}, {2, 2.0F}, {3, -1.0F}};

struct sim_client *sim_client_of(struct sim *sim, uint64_t seq_id)
{
    uint32_t slot = (uint32_t)seq_id;
    LAW(slot < COUNT_OF(sim->by_slot));
    struct sim_client *client = sim->by_slot[slot];
    return client && client->live && client->seq_id == seq_id ? client : NULL;
}

static void client_take(struct sim_client *client, uint32_t token)
{
    uint32_t at = client->prompt_count + client->output_count;
    client->tokens[at] = token;
    client->histories[at] = sim_history_step(at ? client->histories[at - 1] : 0, token);
}

static void client_draw(struct sim *sim, struct sim_client *client)
{
    uint64_t family = rng_below(&sim->rng, FAMILIES);
    uint32_t shared = (uint32_t)rng_below(&sim->rng, 80);
    uint32_t prompt_count = 1 + (uint32_t)rng_below(&sim->rng, sim->prompt_max);
    *client = (struct sim_client){.seed = rng_next(&sim->rng)};
    for (; client->prompt_count < prompt_count; client->prompt_count++)
        client_take(client, client->prompt_count < shared
                                ? sim_token_after(family * 1000 + client->prompt_count + 1)
                                : (uint32_t)rng_below(&sim->rng, SIM_VOCAB));
    client->output_max = 1 + (uint32_t)rng_below(&sim->rng, SIM_LEN_MAX - prompt_count);
    client->scores = rng_below(&sim->rng, 8) == 0;
    client->uses_history = rng_below(&sim->rng, 10) == 0;
    client->poison = sim->has_poison && rng_below(&sim->rng, 20) == 0;
    client->salt = rng_below(&sim->rng, 4) == 0;
    client->priority = sim->has_priorities ? (int32_t)rng_below(&sim->rng, 7) - 3 : 0;
    client->arrival_ns = sim->now_ns;
    if (rng_below(&sim->rng, 10) == 0)
        client->deadline_ns = sim->now_ns + rng_below(&sim->rng, 200 * NS_PER_MS);
    if (rng_below(&sim->rng, 10) != 0) return;
    client->bias_count = 1 + (uint32_t)rng_below(&sim->rng, COUNT_OF(biases));
    client->min_bias_count = (uint32_t)rng_below(&sim->rng, client->bias_count + 1);
    client->min_output = (uint32_t)rng_below(&sim->rng, 20);
}

/* What a quarter of the clients say their pages are worth, some less than all others; drawn from the client's seed. */
static uint32_t client_retains(const struct sim_client *client, struct retain_range ranges[static 2])
{
    static const struct retain_hint hints[] = {{60, 1}, {80, RETAIN_FOREVER}, {0, 0}, {35, 0}};
    uint64_t drawn = rng_at(client->seed, 0, 0);
    if (drawn % 4 != 0) return 0;
    uint32_t middle = client->prompt_count / 2;
    ranges[0] = (struct retain_range){0, middle, hints[drawn / 4 % 4]};
    ranges[1] = (struct retain_range){middle, UINT32_MAX, hints[drawn / 16 % 4]};
    return 2;
}

static void client_queue(struct sim *sim, struct sim_client *client)
{
    struct retain_range retains[2];
    struct sched_request request = {
        .prompt = client->tokens,
        .prompt_count = client->prompt_count,
        .output_max = client->output_max,
        .root_key = {client->salt, 0},
        .tenant = (uint32_t)client->salt, // 1 has a share
        .params = {.seed = client->seed, .temperature = 1, .top_p = 1, .repetition_penalty = 1},
        .biases = biases,
        .bias_count = client->bias_count,
        .min_output = client->min_output,
        .min_bias_count = client->min_bias_count,
        .score_prompt = client->scores,
        .use_history = client->uses_history,
        .priority = client->priority,
        .arrival_ns = client->arrival_ns,
        .deadline_ns = client->deadline_ns,
        .retains = retains,
        .retain_count = client_retains(client, retains),
        .owner = client,
    };
    bool fits = (client->prompt_count + client->output_max + PAGE_TOKENS - 1) / PAGE_TOKENS <=
                sim->page_count;
    bool full = sched_queue_full(sim->sched);
    int r = sched_submit(sim->sched, &request, &client->seq_id);
    if (r < 0) {
        LAW((r == ERR_LIMIT && !fits) || (r == ERR_FULL && full));
        return;
    }
    uint32_t slot = (uint32_t)client->seq_id;
    LAW(fits && !full && slot < COUNT_OF(sim->seq_id_last));
    LAW(client->seq_id > sim->seq_id_last[slot]); // an id never comes twice
    sim->seq_id_last[slot] = client->seq_id;
    sim->by_slot[slot] = client;
    client->live = true;
    client->order = ++sim->submissions;
}

static void client_submit(struct sim *sim, struct sim_client *client)
{
    client_draw(sim, client);
    client_queue(sim, client);
}

struct sim_client *sim_submit(struct sim *sim, int place, uint32_t family, uint32_t prompt_count,
                              uint32_t output_max)
{
    struct sim_client *client = &sim->clients[place];
    *client = (struct sim_client){.output_max = output_max, .arrival_ns = sim->now_ns};
    for (; client->prompt_count < prompt_count; client->prompt_count++)
        client_take(client, (family + client->prompt_count) % SIM_VOCAB);
    client_queue(sim, client);
    LAW(client->live);
    return client;
}

static void client_end(struct sim *sim, struct sim_client *client)
{
    sched_remove(sim->sched, client->seq_id, sim->now_ns);
    LAW(!sched_has(sim->sched, client->seq_id));
    client->live = false;
}

static void client_cancel(struct sim *sim, struct sim_client *client)
{
    client_end(sim, client);
    sched_remove(sim->sched, client->seq_id, sim->now_ns); // twice is nothing
    sched_pause(sim->sched, client->seq_id, true);
    sim->counts.cancelled++;
}

void sim_clients_act(struct sim *sim)
{
    for (uint64_t n = rng_below(&sim->rng, 4); n > 0; n--) {
        struct sim_client *client = &sim->clients[rng_below(&sim->rng, SIM_CLIENTS)];
        if (!client->live) {
            client_submit(sim, client);
        } else if (rng_below(&sim->rng, 8) == 0) {
            client_cancel(sim, client);
        } else {
            client->paused = rng_below(&sim->rng, 6) == 0;
            sched_pause(sim->sched, client->seq_id, client->paused);
        }
    }
}

static void scores_event(struct sim_client *client, const struct sched_event *event)
{
    LAW(client->scores);
    LAW(event->score_position == client->scored);
    LAW(client->scored + event->score_count <= client->prompt_count);
    for (uint32_t i = 0; i < event->score_count; i++) {
        uint32_t next = client->scored + i + 1;
        LAW(event->scores[i].token == (next < client->prompt_count ? client->tokens[next] : PLAN_TOKEN_NONE));
    }
    client->scored += event->score_count;
}

static void token_event(struct sim *sim, struct sim_client *client, const struct sched_event *event,
                        uint64_t step)
{
    uint32_t known = client->prompt_count + client->output_count;
    if (client->scores) LAW(client->scored == client->prompt_count);
    LAW(client->output_count == 0 || client->token_step != step); // one token a step
    LAW(client->output_count < client->output_max);
    LAW(event->seq->token == sim_token_after(client->histories[known - 1]));
    struct sched_seq_info info;
    sched_seq_info(sim->sched, event->seq_id, &info);
    LAW(info.running && info.admitted && info.cached_count < client->prompt_count);
    client->token_step = step;
    client_take(client, event->seq->token);
    client->output_count++;
    sim->counts.tokens++;
    if (client->output_count < client->output_max && (sim->quiet || rng_below(&sim->rng, 60) != 0)) return;
    client_end(sim, client); // length, or a stop
    sim->counts.finished++;
}

void sim_client_event(struct sim *sim, const struct sched_event *event, uint64_t step)
{
    struct sim_client *client = event->owner;
    LAW(client >= sim->clients && client < sim->clients + SIM_CLIENTS);
    if (!sched_has(sim->sched, event->seq_id)) { // an earlier event of the step made an end of it
        LAW(!client->live || client->seq_id != event->seq_id);
        return;
    }
    struct sim_client *other = &sim->clients[rng_below(&sim->rng, SIM_CLIENTS)];
    if (!sim->quiet && other != client && other->live && rng_below(&sim->rng, 50) == 0)
        client_cancel(sim, other);
    LAW(client->live && event->seq_id == client->seq_id);
    if (event->kind == SCHED_SCORES) {
        scores_event(client, event);
    } else if (event->kind == SCHED_EXPIRED) {
        LAW(client->deadline_ns && client->deadline_ns <= sim->now_ns);
        client_end(sim, client);
        sim->counts.expired++;
    } else if (event->kind == SCHED_FAILED) {
        LAW(client->losses >= SCHED_LOSSES_MAX);
        client_end(sim, client);
        sim->counts.failed++;
    } else {
        LAW(event->kind == SCHED_TOKEN);
        token_event(sim, client, event, step);
    }
}

void sim_clients_expire(struct sim *sim)
{
    int count;
    while ((count = sched_expire(sim->sched, sim->now_ns, sim->events)) > 0)
        for (int i = 0; i < count; i++) sim_client_event(sim, &sim->events[i], 0);
    LAW(count == 0);
    LAW(sched_deadline_next(sim->sched) > sim->now_ns);
    for (int i = 0; i < SIM_CLIENTS; i++)
        LAW(!sim->clients[i].live || !sim->clients[i].deadline_ns ||
            sim->clients[i].deadline_ns > sim->now_ns);
}
