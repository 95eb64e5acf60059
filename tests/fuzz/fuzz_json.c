/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzz target of common/base/json: any bytes; what the gate accepts cJSON must read, print and read
 * again, and what the check refuses the parse must refuse. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "common/base/check.h"
#include "common/base/json.h"
#include "common/base/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct err err = {0};
    int checked = json_check((const char *)bytes, len, JSON_DEPTH_MAX, &err);
    struct cJSON *json = NULL;
    int parsed = json_parse((const char *)bytes, len, JSON_DEPTH_MAX, &json, NULL);
    CHECK(checked == 0 || checked == ERR_INPUT);
    if (checked != 0) CHECK(err.text[0] != 0);
    if (checked != 0) CHECK(parsed == ERR_INPUT);
    if (parsed != 0) return 0;
    char *text = cJSON_PrintUnformatted(json);
    CHECK(text);
    CHECK(json_check(text, strlen(text), JSON_DEPTH_MAX, NULL) == 0);
    free(text);
    cJSON_Delete(json);
    return 0;
}
