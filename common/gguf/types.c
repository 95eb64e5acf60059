/* SPDX-License-Identifier: Apache-2.0 */
/* See types.h. The table is indexed by the id in the file; holes are ids this build does not know. */
#include "common/gguf/types.h"

#include "common/base/check.h"

const struct tensor_type_info *tensor_type_info(uint32_t type_id)
{
    static const struct tensor_type_info infos[] = {
#define X(enumerator, id, elements, bytes, text) [id] = {text, elements, bytes},
        TENSOR_TYPES(X)
#undef X
    };
    if (type_id >= COUNT_OF(infos)) return NULL;
    if (infos[type_id].block_bytes == 0) return NULL;
    return &infos[type_id];
}
