/* SPDX-License-Identifier: Apache-2.0 */
/* slots.pml - model of common/ipc/ring.c by itself, for Spin 6: a producer and a consumer on 2 slots, each killed and
 * started again at any statement, without the link's rule that bounds what is out (ring.pml models that).
 *
 * Shown: the consumer reads whole slots only, in the order of publication, and of everything published it misses
 * nothing and releases nothing twice; after its own death it may see again, once, what it had not released (ring.h).
 * I1 holds at every attach, next and peek, and every execution ends. Counters are stored straight to memory: release
 * and acquire are assumed to do their work, and mutations 1 and 2 are what would be if they did not.
 *
 * Mutations, by the environment's MUTANT:
 *   1 published before the payload is written     2 released before the payload is read
 *   3 a producer starts at 0 instead of at tail   4 a consumer starts at 0 instead of at head
 *   5 ring_next gives a slot that is not free */

#ifndef ITEMS
#define ITEMS 5
#endif
#ifndef KILLS
#define KILLS 3
#endif
#define SLOTS 2

byte tail, head;
byte slot[SLOTS * 2]; /* two words each, to be read as one */
byte kills;
bool kill[2];
byte mutant;

proctype Producer()
{
    byte own;
    do
    ::  {
            /* ring_attach_producer */
            d_step { own = (mutant == 3 -> 0 : tail); assert(own - head <= SLOTS) }
            do
            :: d_step { own < ITEMS && (own - head < SLOTS || mutant == 5); assert(own - head <= SLOTS || mutant == 5) } /* ring_next */
                d_step { tail = (mutant == 1 -> own + 1 : tail); slot[(own % SLOTS) * 2] = own + 1 }
                slot[(own % SLOTS) * 2 + 1] = own + 1;
                d_step { own = own + 1; tail = own } /* ring_publish */
            :: d_step { own == ITEMS } -> goto done
            od
        } unless { kill[0] };
        d_step { kill[0] = false; own = 0 }
    od;
done:
    skip
}

proctype Consumer()
{
    byte own, x, released;
    do
    ::  {
            /* ring_attach_consumer */
            d_step { own = (mutant == 4 -> 0 : head); assert(own == released); assert(tail - own <= SLOTS) }
            do
            :: d_step { own != tail; assert(tail - own <= SLOTS); x = slot[(own % SLOTS) * 2];
                head = (mutant == 2 -> own + 1 : head) } /* ring_peek */
                d_step { assert(slot[(own % SLOTS) * 2 + 1] == x); assert(x == own + 1); x = 0 }
                d_step { own = own + 1; head = own; released = own } /* ring_release */
            :: d_step { own == ITEMS } -> goto done
            od
        } unless { kill[1] };
        d_step { kill[1] = false; own = 0; x = 0 }
    od;
done:
    skip
}

proctype Killer()
{
end:
    do
    :: d_step { kills > 0 && !kill[0] && tail < ITEMS; kills--; kill[0] = true }
    :: d_step { kills > 0 && !kill[1] && head < ITEMS; kills--; kill[1] = true }
    od
}

init {
    c_code { char *text = getenv("MUTANT"); now.mutant = text ? (unsigned char)atoi(text) : 0; }
    atomic { select(kills: 0 .. KILLS); run Producer(); run Consumer(); run Killer() }
}
