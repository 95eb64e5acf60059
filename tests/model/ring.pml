/* SPDX-License-Identifier: Apache-2.0 */
/* ring.pml - model of common/ipc/{ring,wake,link}.c with their users daemon/{group,engine}.c and worker/main.c, for
 * Spin 6: plans there, completions back, sleep and wake, death of either side at any statement, restart, stop.
 * tests/model/check-ring runs it over its whole state space in the configurations named there, and then once for
 * each mutation below, which must all be found. Each inline is named after the function that it models.
 *
 * What is shown (by assertions, and by the absence of deadlocks and of cycles):
 *   P1 no plan is executed twice, nor one that was given up as lost; never more are out than the engine allows
 *   P2 no completion is taken twice, none that a worker published is lost, also when it then died; a lost step's
 *      work is done by a later one
 *   P3 no slot is read half-written or half-overwritten
 *   P4 every execution is finite and ends with all work done and everybody gone. No timeout is modelled: nobody
 *      sleeps while there is something for him, whatever the schedule
 *   P5 a worker that outlives its daemon for a moment touches nothing on the next daemon's link
 *
 * Memory. Spin itself is sequentially consistent. The stores of which a sleep or a wake hangs (the tails, stop, a
 * rank's state, `sleeping`) therefore go through a store buffer of their thread, which the process Memory empties at
 * any time, and which a seq_cst fence and a read-modify-write find empty: such a store may be seen later than the
 * loads behind it, as on x86 and on ARM. That is what the fences of wake.c are for (mutations 3 and 4). What ARM does
 * besides, a payload overtaken by the counter that publishes it, is what release and acquire forbid: mutations 1 and 2
 * are what would be if they did not.
 *
 * Bounds: see check-ring. Rings have 2 slots (LINK_SLOTS is 4), counters are absolute, as in the code. Peers that
 * write nonsense are not modelled: ring_peek, ring_next and done_verify refuse them (tests/unit/test_link.c).
 *
 * Mutations, by the environment's MUTANT:
 *    1 a plan is published before its payload      2 a completion is
 *    3 wake_prepare has no fence                   4 wake_notify has none
 *    5 a worker looks only before it announces     6 it takes its ticket after the look
 *    7 a notifier does not count up the sequence   8 it does not call FUTEX_WAKE
 *    9 link_plan_push does not notify             10 link_done_push does not
 *   11 link_reset comes before the last pop       12 a new worker starts at the first plan ever
 *   13 no pop after a death                       14 link_reset leaves the plan ring as it is
 *   15 a lost step is not planned again           16 the engine plans with a step in flight
 *   17 the waiter does not look at completions    18 a rank's new state does not count up changes
 *   19 the waiter does not look at changes        20 the waiter looks only before it announces
 *   21 a worker reads stop after the ring         22 link_stop does not notify
 *   23 link_interrupt does not notify             24 the next daemon uses the old segment again
 *   25 a worker does not look whose link it is    26 it does not look whether its parent is dead already
 *   27 the waiter does not look at waiter_stop    28 a worker writes its state before it looks whose link it is */

#ifndef WORK
#define WORK 3   /* steps of the engine to be answered in one life of the daemon */
#endif
#ifndef KILLS
#define KILLS 2  /* kill -9 of a worker */
#endif
#ifndef LIVES
#define LIVES 1  /* of the daemon; it dies LIVES - 1 times */
#endif
#ifndef DEPTH
#define DEPTH 1  /* steps in flight: the engine's 1, or what the link would allow */
#endif
#define SLOTS 2
#define PLANS (WORK + KILLS * DEPTH + 2)

/* The segment of one link, in words: plan ring, completion ring, the two wakes, the rank's cell, stop. */
#define PTAIL 0
#define PHEAD 1
#define DTAIL 2
#define DHEAD 3
#define PSEQ 4
#define PSLP 5
#define DSEQ 6
#define DSLP 7
#define STATE 8
#define CHANGES 9
#define STOP 10
#define WORDS 11
#define AT(word) mem[lk * WORDS + (word)]
#define ADDR(word) (lk * WORDS + (word))
byte mem[LIVES * WORDS];
/* A slot's payload is two words that must be read as one. */
byte pslot[LIVES * SLOTS * 2];
byte dslot[LIVES * SLOTS * 2];
#define PSLOT(counter, word) pslot[(lk * SLOTS + (counter) % SLOTS) * 2 + (word)]
#define DSLOT(counter, word) dslot[(lk * SLOTS + (counter) % SLOTS) * 2 + (word)]
/* Who sleeps in FUTEX_WAIT on PSEQ and on DSEQ. */
bool asleep[LIVES * 2];

#define RANK_NONE 0
#define RANK_LOADING 1
#define RANK_READY 2
#define RANK_FAILED 3

/* Threads, each with a store buffer: the daemon's loop and its waiter, the worker of each life of the daemon. */
#define LOOP 0
#define WAITER 1
#define WORKER(life) (2 + (life))
chan buffer[2 + LIVES] = [1] of { byte, byte }

byte mutant; /* 0: the code as it is; else the mutation of that number */

/* Private memory of the daemon, new in each life. */
byte life;             /* which one */
byte link_name;        /* the life whose link /kvasir-<instance>-link.0 names */
bool async;            /* uv_async_send before the callback */
byte interrupts;
bool waiter_run, waiter_stop;
/* Processes, as the kernel sees them. */
bool daemon_kill, loop_up, waiter_up;
bool lock_free[LIVES]; /* the dead daemon's; a little before ... */
bool daemon_dead[LIVES]; /* ... its children hear of it: getppid, PR_SET_PDEATHSIG */
bool worker_alive[LIVES], worker_run[LIVES], worker_kill[LIVES], guarded[LIVES], doomed[LIVES];
bool attached[LIVES];  /* to its own daemon's link: then nothing of the next daemon's is in its reach, and to save
                        * states it goes before the next daemon comes */
bool exited;           /* the pidfd of this life's worker is readable */
byte kills;            /* left; drawn at the start, so that no sleep for ever is hidden by a kill that may yet come */
bool finished[LIVES];  /* this life's group is stopped: nothing more dies */

/* What the properties ask for; nobody in the model reads these to decide anything. */
bool executed[LIVES * PLANS];
byte published[LIVES]; /* number of the last plan whose completion its worker has published */

/* ---- stores, fences, futexes ---- */

active proctype Memory()
{
    byte at, value;
end:
    do
    :: d_step { nempty(buffer[0]) -> buffer[0]?at, value; mem[at] = value; at = 0; value = 0 }
    :: d_step { nempty(buffer[1]) -> buffer[1]?at, value; mem[at] = value; at = 0; value = 0 }
    :: d_step { nempty(buffer[2]) -> buffer[2]?at, value; mem[at] = value; at = 0; value = 0 }
#if LIVES > 1
    :: d_step { nempty(buffer[3]) -> buffer[3]?at, value; mem[at] = value; at = 0; value = 0 }
#endif
    od
}

/* A store that may stay in the thread's buffer, and one that is seen at once by all. */
#define STORE(thread, word, value) nfull(buffer[thread]); buffer[thread]!ADDR(word), value

#define FENCE(thread) (mutant == 4 || empty(buffer[thread]))
/* wake_notify. forgotten: the mutation that it is not called at all. */
inline wake_notify(thread, seq, slp, who, forgotten)
{
    if
    :: d_step { FENCE(thread) && (AT(slp) == 0 || (forgotten)) }
    :: d_step { FENCE(thread) && AT(slp) != 0 && !(forgotten) }
        d_step { empty(buffer[thread]); AT(seq) = AT(seq) + (mutant != 7) }
        d_step { asleep[lk * 2 + who] = asleep[lk * 2 + who] && mutant == 8 } /* FUTEX_WAKE */
    fi
}

/* The first half of wake_prepare (the caller took the ticket before); its fence is in front of the look behind it. */
inline wake_announce(thread, slp) { d_step { STORE(thread, slp, 1) } }
#define LOOK(thread) (!announced || mutant == 3 || empty(buffer[thread]))

/* wake_sleep: FUTEX_WAIT compares and goes to sleep in one step, behind the kernel's own barrier. Then wake_finish
 * and the load of the next ticket. */
inline wake_sleep(thread, seq, slp, who)
{
    d_step { empty(buffer[thread]); asleep[lk * 2 + who] = (AT(seq) == ticket) }
    d_step { !asleep[lk * 2 + who]; AT(slp) = 0 }
    d_step { ticket = AT(seq) }
    wake_announce(thread, slp)
}

/* The segment of a dead daemon, which no new one maps, is the same whatever it held: fewer states. */
inline forget(dead)
{
    i = 0;
    do
    :: i < WORDS -> mem[dead * WORDS + i] = 0; i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < SLOTS * 2 -> pslot[dead * SLOTS * 2 + i] = 0; dslot[dead * SLOTS * 2 + i] = 0; i++
    :: else -> break
    od;
    i = 0;
    do
    :: i < PLANS -> executed[dead * PLANS + i] = false; i++
    :: else -> break
    od;
    published[dead] = 0; i = 0
}

/* ---- the worker: worker/main.c over link.c ---- */

/* cell_set_state, cell_changed */
inline cell_set_state(w, state)
{
    d_step { nfull(buffer[WORKER(w)]); assert(lk == w); buffer[WORKER(w)]!ADDR(STATE), state } /* P5 */
    d_step { empty(buffer[WORKER(w)]); AT(CHANGES) = AT(CHANGES) + (mutant != 18) }
    wake_notify(WORKER(w), DSEQ, DSLP, 1, false)
}

/* link_plan_wait: plan_take, and once it has announced itself, again; then it sleeps. Its spin is another look. A plan
 * goes to `plan`; `leave` is where -ECANCELED leads. */
inline plan_wait(w)
{
    do
    :: d_step { LOOK(WORKER(w)); x = AT(STOP) && mutant != 21 } /* plan_take: stop before the ring */
        if
        :: d_step { AT(PTAIL) != own_p && !(mutant == 5 && announced);
            assert(AT(PTAIL) - own_p <= SLOTS);
            x = PSLOT(own_p, 0) }
            d_step { /* ring_release */
                assert(PSLOT(own_p, 1) == x); /* P3 */
                plan = x; x = 0; own_p = own_p + 1;
                AT(PHEAD) = own_p
            }
            break
        :: d_step { (AT(PTAIL) == own_p || (mutant == 5 && announced)) && !x && !announced;
            announced = true;
            ticket = AT(PSEQ) }
            wake_announce(WORKER(w), PSLP)
        :: d_step { (AT(PTAIL) == own_p || (mutant == 5 && announced)) && !x && announced;
            ticket = (mutant == 6 -> AT(PSEQ) : ticket);
            announced = (mutant != 5) }
            wake_sleep(WORKER(w), PSEQ, PSLP, 0)
        :: d_step { AT(PTAIL) == own_p && x } -> goto leave
        :: d_step { AT(PTAIL) == own_p && mutant == 21 && AT(STOP) } -> goto leave
        fi
    od;
    atomic { skip; d_step { AT(PSLP) = (announced -> 0 : AT(PSLP)); announced = false } } /* wake_finish */
}

/* serve_one: link_done_slot, step_run, link_done_push */
inline serve_one(w)
{
    d_step {
        assert(lk == w); /* P5 */
        assert(!executed[lk * PLANS + plan]); /* P1 */
        executed[lk * PLANS + plan] = true;
        assert(own_d - AT(DHEAD) < SLOTS); /* ring_next: a completion always finds a slot */
        AT(DTAIL) = (mutant == 2 -> own_d + 1 : AT(DTAIL));
        DSLOT(own_d, 0) = plan
    }
    d_step { /* ring_publish */
        nfull(buffer[WORKER(w)]);
        DSLOT(own_d, 1) = plan;
        own_d = own_d + 1;
        buffer[WORKER(w)]!ADDR(DTAIL), own_d;
        published[lk] = plan;
        plan = 0
    }
    wake_notify(WORKER(w), DSEQ, DSLP, 1, mutant == 10)
}

proctype Worker(byte w)
{
    byte lk, own_p, own_d, ticket, plan, x;
    bool announced;
end:
    do
    :: d_step { worker_run[w]; worker_run[w] = false }
        {
#if LIVES > 1
            /* parent_guard: the kernel's promise first, then the look whether it came too late */
            guarded[w] = true;
            if
            :: daemon_dead[w] && mutant != 26 -> goto leave
            :: !daemon_dead[w] || mutant == 26
            fi;
#endif
            /* link_attach, by name; then whose life it is of, before anything is written to it */
#if LIVES > 1
            d_step { lk = link_name; attached[w] = (lk == w && !lock_free[w]) }
            if
            :: lk != w && mutant != 25 && mutant != 28 -> goto leave
            :: lk == w && lock_free[w] && mutant != 26 -> goto leave /* it would sleep there until it is killed */
            :: lk == w && (!lock_free[w] || mutant == 26) || lk != w && mutant == 25
            :: lk != w && mutant == 28 -> cell_set_state(w, RANK_FAILED); goto leave
            fi;
#endif
            d_step { own_p = (mutant == 12 -> 0 : AT(PHEAD)); own_d = AT(DTAIL) }
            cell_set_state(w, RANK_READY);
            do
            :: plan_wait(w); serve_one(w)
            od;
leave:
            skip;
            d_step { assert(lk != w || lock_free[w] || (empty(buffer[LOOP]) && AT(PTAIL) == own_p)) } /* plans before a stop are served */
        } unless { worker_kill[w] };
        skip;
        d_step { /* gone: its stores reach memory, its sleep ends, its parent learns of it */
            empty(buffer[WORKER(w)]);
            asleep[lk * 2] = asleep[lk * 2] && lk != w;
            worker_alive[w] = false; worker_kill[w] = false; guarded[w] = false; attached[w] = false; doomed[w] = false;
            exited = (life == w -> true : exited);
            lk = 0; own_p = 0; own_d = 0; ticket = 0; plan = 0; x = 0; announced = false
        }
    od
}

/* ---- the daemon's waiter thread: waiter_main over link_daemon_wait ---- */

/* What daemon_look finds new since it last noted what it has seen. */
#define NEW ((y != done_seen && mutant != 17) || (AT(CHANGES) != changes_seen && mutant != 19) || \
             seen_i != interrupts_seen)
#define NOTE done_seen = y; changes_seen = AT(CHANGES); interrupts_seen = seen_i; y = 0; seen_i = 0

proctype Waiter()
{
    byte lk, ticket, y, seen_i, done_seen, changes_seen, interrupts_seen;
    bool announced;
end:
    do
    :: d_step { waiter_run; waiter_run = false; lk = (mutant == 24 -> 0 : life) }
        {
            do
            :: d_step { waiter_stop && !announced && mutant != 27 } -> break
            :: d_step { (!waiter_stop || announced || mutant == 27) && LOOK(WAITER); seen_i = interrupts; y = AT(DTAIL) }
                if
                :: d_step { NEW && !(mutant == 20 && announced); NOTE; AT(DSLP) = (announced -> 0 : AT(DSLP)) }
                    d_step { announced = false; async = true } /* uv_async_send */
                :: d_step { !NEW && !announced; NOTE; ticket = AT(DSEQ); announced = true }
                    wake_announce(WAITER, DSLP)
                :: d_step { (!NEW || mutant == 20) && announced;
                    done_seen = (mutant == 20 -> done_seen : y); y = 0; seen_i = 0;
                    announced = (mutant != 20) }
                    wake_sleep(WAITER, DSEQ, DSLP, 1)
                fi
            od
        } unless { daemon_kill };
        skip;
        d_step {
            empty(buffer[WAITER]);
            asleep[lk * 2 + 1] = false;
            waiter_up = false;
            lk = 0; ticket = 0; announced = false; done_seen = 0; changes_seen = 0; interrupts_seen = 0;
            y = 0; seen_i = 0
        }
    od
}

/* ---- the daemon's loop: group.c and engine.c over link.c ---- */

#define STARTING 1
#define READY 2
#define STOPPING 3

/* What is left for the engine to plan, and whether it may. */
#define WANTED (LAST_LIFE && work_done + (planned - answered) < WORK)
#define LAST_LIFE (life == LIVES - 1) /* the others die before they plan: saves states */
#define MAY_PLAN (state == READY && WANTED && (planned - answered < DEPTH || mutant == 16) && plans_out < SLOTS)

/* completions_pop over link_done_pop. What comes must answer the oldest plan in flight (done_verify). */
inline completions_pop()
{
    do
    :: d_step { AT(DTAIL) == own_d } -> break
    :: d_step { AT(DTAIL) != own_d;
        assert(AT(DTAIL) - own_d <= SLOTS); assert(plans_out > 0);
        x = DSLOT(own_d, 0) }
        d_step { /* ring_release */
            assert(DSLOT(own_d, 1) == x); /* P3 */
            own_d = own_d + 1; plans_out--;
            AT(DHEAD) = own_d;
            assert(x == answered + 1 && answered < planned); /* P2: each once, in order, and asked for */
            answered = x; work_done++; taken++; x = 0
        }
    od
}

/* step_plan: link_plan_slot, link_plan_push */
inline step_plan()
{
    d_step {
        MAY_PLAN;
        assert(own_p - AT(PHEAD) < SLOTS);
        planned++;
        assert(planned - answered <= DEPTH); /* P1 */
        AT(PTAIL) = (mutant == 1 -> own_p + 1 : AT(PTAIL));
        PSLOT(own_p, 0) = planned
    }
    d_step { /* ring_publish */
        nfull(buffer[LOOP]);
        PSLOT(own_p, 1) = planned; own_p = own_p + 1; plans_out++;
        buffer[LOOP]!ADDR(PTAIL), own_p
    }
    wake_notify(LOOP, PSEQ, PSLP, 0, mutant == 9)
}

/* link_reset, up to the exec that orders it before the next worker. */
inline link_reset()
{
    AT(PTAIL) = (mutant == 14 -> AT(PTAIL) : own_p); AT(PHEAD) = (mutant == 14 -> AT(PHEAD) : own_p);
    AT(DHEAD) = own_d; AT(DTAIL) = own_d; plans_out = 0;
    AT(STATE) = RANK_NONE; AT(STOP) = 0; AT(PSLP) = 0
}

inline worker_start() { worker_alive[life] = true; worker_run[life] = true; exited = false; state = STARTING }

proctype Loop()
{
    byte lk, state, own_p, own_d, plans_out, planned, answered, work_done, taken, x, i;
    bool ever_ready;
    do
    :: d_step { /* link_create: a fresh segment takes the name; group_new: the waiter; group_start */
        lk = (mutant == 24 -> 0 : life); link_name = lk;
        loop_up = true; waiter_up = true; waiter_run = true;
        worker_start()
    }
        {
            do
            :: d_step { async; async = false } /* woken: ready_look, on_done */
                d_step {
                    ever_ready = ever_ready || (state == STARTING && AT(STATE) == RANK_READY);
                    state = (state == STARTING && AT(STATE) == RANK_READY -> READY : state)
                }
                if
                :: state == READY -> completions_pop()
                :: state != READY
                fi
            :: d_step { exited && (state == STOPPING || !ever_ready); exited = false } -> break /* STOPPED, FAILED */
            :: d_step { exited && state != STOPPING && ever_ready; exited = false } /* on_lost */
                if
                :: d_step { mutant == 11 && empty(buffer[LOOP]); link_reset() }
                :: mutant != 11 && mutant != 13 -> completions_pop() /* what it finished before it died counts */
                :: mutant == 13
                fi;
                skip;
                d_step { /* sched_lost: the rest will be planned again, under new numbers */
                    empty(buffer[LOOP]);
                    assert(published[lk] <= answered); /* P2 */
                    work_done = work_done + (mutant == 15 -> planned - answered : 0);
                    answered = planned;
                    link_reset();
                    worker_start()
                }
            :: step_plan()
            :: d_step { state == READY && LAST_LIFE && !WANTED && (DEPTH > 1 || planned == answered) && nfull(buffer[LOOP]);
                state = STOPPING; buffer[LOOP]!ADDR(STOP), 1 } /* group_stop, link_stop */
                wake_notify(LOOP, PSEQ, PSLP, 0, mutant == 22)
            od;
            skip;
            d_step { /* group_free; P4: all was done, unless it failed before it was ever ready */
                assert(!ever_ready || taken + planned - answered == WORK);
                finished[life] = true; waiter_stop = true; interrupts++
            }
            wake_notify(LOOP, DSEQ, DSLP, 1, mutant == 23);
            !waiter_up -> /* uv_thread_join */
            goto done
        } unless { daemon_kill };
        skip;
        d_step { /* its lock may be free before its worker hears of it: Killer */
            empty(buffer[LOOP]) && !waiter_up && !(worker_alive[life] && attached[life] && mutant != 24);
            if
            :: mutant != 24 -> forget(life)
            :: else
            fi;
            lock_free[life] = true; daemon_kill = false; loop_up = false;
            lk = 0; state = 0; own_p = 0; own_d = 0; plans_out = 0; planned = 0; answered = 0; work_done = 0; taken = 0; x = 0;
            ever_ready = false;
            async = false; interrupts = 0; waiter_stop = false; exited = false; waiter_run = false;
            life++
        }
    od;
done:
    skip
}

/* ---- death ---- */

proctype Killer()
{
end:
    do
    :: d_step { kills > 0 && worker_alive[0] && !worker_kill[0] && !finished[0]; kills--; worker_kill[0] = true }
#if LIVES > 1
    :: d_step { kills > 0 && worker_alive[1] && !worker_kill[1] && !finished[1]; kills--; worker_kill[1] = true }
    :: d_step { life + 1 < LIVES && loop_up && !finished[life] && !daemon_kill; daemon_kill = true }
    :: d_step { lock_free[0] && !daemon_dead[0]; daemon_dead[0] = true; doomed[0] = guarded[0] } /* exit_notify */
    :: d_step { (doomed[0] || daemon_kill && attached[0] && mutant != 24) && worker_alive[0] && !worker_kill[0];
        worker_kill[0] = true; doomed[0] = false }
#endif
    od
}

init {
    byte i;
    c_code { char *text = getenv("MUTANT"); now.mutant = text ? (unsigned char)atoi(text) : 0; }
    atomic {
        select(kills: 0 .. KILLS);
        run Loop(); run Waiter(); run Killer();
        i = 0;
        do
        :: i < LIVES -> run Worker(i); i++
        :: else -> break
        od
    }
}
