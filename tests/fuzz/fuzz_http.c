/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target of daemon/http. The first two bytes choose how the rest is cut; the result must not depend
 * on it, and an accepted request must hold what http.h promises. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "daemon/http.h"

enum { BODY_BYTES_MAX = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

/* Returns the status (200 whole, 0 goes on); the caller frees *ret_reader. */
static int feed(const uint8_t *bytes, size_t len, size_t first, size_t piece, size_t *ret_used,
                struct http_reader **ret_reader)
{
    struct http_reader *reader = http_reader_new(BODY_BYTES_MAX);
    CHECK(reader);
    *ret_reader = reader;
    *ret_used = 0;
    for (size_t at = 0, take = first; at < len; take = piece) {
        size_t used = 0;
        if (take > len - at) take = len - at;
        int r = http_reader_feed(reader, bytes + at, take, &used, NULL);
        if (r < 0) return http_reader_status(reader);
        CHECK(used <= take);
        at += used;
        *ret_used = at;
        if (r == HTTP_FEED_COMPLETE) return 200;
        CHECK(used == take);
    }
    return 0;
}

static void check_request(const struct http_request *request)
{
    CHECK(request->path[0] == '/' || strcmp(request->path, "*") == 0);
    CHECK(strlen(request->path) <= HTTP_URL_BYTES_MAX);
    CHECK(request->body_bytes <= BODY_BYTES_MAX);
    CHECK(request->body[request->body_bytes] == 0);
    CHECK(request->version_minor <= 1);
    if (request->version_minor == 1) CHECK(http_request_header(request, "host"));
    const char *length = http_request_header(request, "content-length");
    const char *coding = http_request_header(request, "transfer-encoding");
    CHECK(!(length && coding));
    if (!length && !coding) CHECK(request->body_bytes == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len < 2) return 0;
    size_t first = bytes[0] + 1u, piece = bytes[1] % 16 + 1u, used_whole, used_cut;
    struct http_reader *whole, *cut;
    int status_whole = feed(bytes + 2, len - 2, len, len, &used_whole, &whole);
    int status_cut = feed(bytes + 2, len - 2, first, piece, &used_cut, &cut);
    CHECK(status_whole == status_cut);
    CHECK(status_whole == 0 || status_whole == 200 || (status_whole >= 400 && status_whole < 600));
    CHECK(http_reader_bytes(whole) <= KIB(64));
    if (status_whole == 200) {
        const struct http_request *a = http_reader_request(whole), *b = http_reader_request(cut);
        CHECK(used_whole == used_cut);
        check_request(a);
        CHECK(strcmp(a->path, b->path) == 0);
        CHECK(a->keep_alive == b->keep_alive);
        CHECK(a->body_bytes == b->body_bytes && memcmp(a->body, b->body, a->body_bytes) == 0);
    }
    http_reader_free(whole);
    http_reader_free(cut);
    return 0;
}
