/* SPDX-License-Identifier: Apache-2.0 */
#include "client/target.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "client/cmd.h"

static const char *environment(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

int target_open(struct target *target, struct kvasir_client **ret_client)
{
    struct kvasir_error error;
    if (target->uds == NULL && target->url == NULL) target->uds = environment("KVASIR_UDS");
    if (target->url == NULL) target->url = environment("KVASIR_URL");
    if (target->url == NULL && target->uds == NULL) target->url = "http://127.0.0.1:8000";
    if (target->api_key == NULL) target->api_key = environment("KVASIR_API_KEY");
    int r = kvasir_open(KVASIR_OPTIONS(.url = target->url, .uds = target->uds, .api_key = target->api_key),
                        ret_client, &error);
    if (r == 0) return 0;
    fprintf(stderr, "kvasir: %s\n", error.text);
    return r == KVASIR_ERR_ARGUMENT ? EX_USAGE : EXIT_FAILED;
}

const char *target_text(const struct target *target)
{
    return target->uds != NULL ? target->uds : target->url;
}

int target_complain(const struct target *target, const struct kvasir_error *error)
{
    const char *where = target_text(target);
    if (error->code == KVASIR_ERR_CONNECT) {
        fprintf(stderr,
                "kvasir: no server at %s: start one with `kvasir serve MODEL.gguf`, or name another with "
                "--url or --uds\n"
                "  (%s)\n",
                where, error->text);
        return EX_UNAVAILABLE;
    }
    fprintf(stderr, "kvasir: %s: %s\n", where, error->text);
    if (error->code == KVASIR_ERR_TIMEOUT) return EX_UNAVAILABLE;
    if (error->code == KVASIR_ERR_ARGUMENT) return EX_USAGE;
    if (error->code != KVASIR_ERR_HTTP) return EXIT_FAILED;
    switch (error->http_status) {
    case 401:
    case 403: fprintf(stderr, "  (give a key in KVASIR_API_KEY or with --api-key)\n"); return EXIT_FAILED;
    case 429:
    case 503:
        if (error->retry_after_s >= 0) {
            fprintf(stderr, "  (the server asks to try again in %d s)\n", (int)error->retry_after_s);
        } else {
            fprintf(stderr, "  (`kvasir status` shows when it takes work again)\n");
        }
        return EX_UNAVAILABLE;
    default: return EXIT_FAILED;
    }
}
