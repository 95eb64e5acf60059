/* SPDX-License-Identifier: Apache-2.0 */
/* cmd_models - what the server serves. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "client/cmd.h"
#include "client/fail.h"
#include "client/target.h"
#include "common/base/check.h"

static void print_models(const struct kvasir_models *models)
{
    for (size_t i = 0; i < kvasir_models_count(models); i++) {
        char id[256];
        text_clean(id, sizeof(id), kvasir_models_id(models, i), strlen(kvasir_models_id(models, i)));
        int64_t context_tokens = kvasir_models_context_tokens(models, i);
        if (context_tokens > 0) printf("%-40s %8" PRId64 " tokens of context\n", id, context_tokens);
        else printf("%s\n", id);
    }
}

int cmd_models(int argc, char **argv)
{
    struct target target = {0};
    bool is_json = false;
    const struct opt table[] = {
        {"json", OPT_FLAG, NULL, &is_json, "the server's own list", 0, 0},
        TARGET_OPTS(&target),
    };
    const struct opts opts = {"models [OPTION]...", "Lists the models of a server.\n\n", table,
                              COUNT_OF(table)};
    struct kvasir_client *client = NULL;
    struct kvasir_models *models = NULL;
    struct kvasir_error error;
    int count = 0;
    int r = opts_parse(&opts, argc, argv, &count);
    if (r != 0) return r < 0 ? EX_USAGE : 0;
    r = target_open(&target, &client);
    if (r != 0) return r;
    if (kvasir_models_get(client, &models, &error) < 0) {
        r = target_complain(&target, &error);
    } else if (is_json) {
        printf("%s\n", kvasir_models_json(models));
    } else {
        print_models(models);
    }
    kvasir_models_free(models);
    kvasir_close(client);
    return r;
}
