/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/progress.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

enum { BAR_CELLS = 30 };

static bool line_open;
static uint32_t tenth_said;

void progress_loading(const char *model, uint32_t permille)
{
    if (!isatty(STDERR_FILENO)) {
        if (permille / 100 <= tenth_said && permille > 0) return;
        tenth_said = permille / 100;
        (void)fprintf(stderr, "loading %s: %" PRIu32 " %%\n", model,
                      permille / 10); // stderr has no better place
        return;
    }
    char bar[BAR_CELLS + 1];
    for (uint32_t i = 0; i < BAR_CELLS; i++) bar[i] = i * 1000 < permille * BAR_CELLS ? '#' : '.';
    bar[BAR_CELLS] = 0;
    (void)fprintf(stderr, "\r\033[Kloading %s [%s] %3" PRIu32 " %%", model, bar, permille / 10); // as above
    line_open = true;
}

void progress_end(void)
{
    if (line_open) (void)fputc('\n', stderr); // as above
    line_open = false;
}

void progress_ready(const char *model, uint64_t cache_bytes, const char *address)
{
    if (line_open) (void)fputs("\r\033[K", stderr); // as above
    line_open = false;
    (void)fprintf(stderr, "serving %s at %s (KV cache %" PRIu64 " MiB); stop with Ctrl-C\n", model, address,
                  cache_bytes >> 20); // as above
}
