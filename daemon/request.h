/* SPDX-License-Identifier: Apache-2.0 */
/* request - one completion, chat or tokenize call from its body to its last byte.
 *
 *   PARSED --pool thread--> PROMPTED --all choices submitted--> RUNNING --last one finishes--> answered, freed
 *      any --client gone, error--> cancelled, freed (after the pool thread has let go of it)
 *
 * Owns params, prompts, choices and, through them, generations. Choices 2..n of a prompt are submitted when
 * the first has its first token: then they find the whole prompt in the cache. A full queue holds them back as long
 * as another choice of the request runs. */
#ifndef KVASIR_DAEMON_REQUEST_H
#define KVASIR_DAEMON_REQUEST_H

#include "daemon/api.h"
#include "daemon/params.h"

enum request_goal { REQUEST_GENERATE, REQUEST_TOKENIZE };

/* Takes a parsed body (params are moved) and answers conn now or later. */
void request_start(struct api *api, struct conn *conn, struct params *params, enum request_goal goal);
void request_client_gone(struct request *request);
void request_client_drained(struct request *request); // it reads again
/* Answers and frees; one whose client has gone is left to end by itself. */
void request_abort(struct request *request, int status, const char *message);
/* Sends what streams held back while a step's events were handled: the worker has its next plan by now. */
void request_send_held(struct api *api);
struct request *request_next(const struct request *request);

#endif
