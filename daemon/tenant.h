/* SPDX-License-Identifier: Apache-2.0 */
/* tenant - what keeps the cached prefixes of API keys apart. */
#ifndef KVASIR_DAEMON_TENANT_H
#define KVASIR_DAEMON_TENANT_H

#include <string.h>

#include "common/base/hash.h"

/* Keys never share cached pages: whether another's prompt is in the cache must not show in the time that one's own
 * takes. key: NULL where there are none; text: the request's cache_salt or NULL. */
static inline struct hash128 tenant_salt(const char *key, const char *text)
{
    struct hash128 salt = {0, 0};
    if (!key) return text ? hash128(text, strlen(text)) : salt;
    salt = hash128(key, strlen(key));
    return text ? hash128_chain(salt, text, strlen(text)) : salt;
}

#endif
