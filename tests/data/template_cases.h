/* SPDX-License-Identifier: Apache-2.0 */
/* template_cases - what the template cases of this folder share: their variables. */
#ifndef KVASIR_TESTS_DATA_TEMPLATE_CASES_H
#define KVASIR_TESTS_DATA_TEMPLATE_CASES_H

struct template_case {
    const char *source;
    const char *expected; // NULL: rendering or compiling must fail
};

static const char template_case_variables[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi <b>\"}, {\"role\": \"assistant\", \"content\": "
    "null, \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"a\": 1, \"b\": [1.5, true, "
    "null, \"x\\\"y'\"]}}}]}, {\"role\": \"user\", \"content\": \"ünï 你好 🌍\"}],"
    "\"n\": 5,"
    "\"f\": 2.5,"
    "\"neg\": -7,"
    "\"t\": true,"
    "\"nul\": null,"
    "\"s\": \"Hello, World\","
    "\"e\": \"\","
    "\"l\": [3, 1, 2],"
    "\"d\": {\"b\": 1, \"a\": 2, \"C\": 3, \"items\": \"shadow\"},"
    "\"nested\": {\"x\": {\"y\": [{\"z\": 1}]}},"
    "\"words\": [\"apple\", \"Banana\", \"cherry\"],"
    "\"uni\": \"Straße ΑΣ ﬁ é\","
    "\"nl\": \"a\\nb\\n\\nc\\n\","
    "\"q\": \"it's\","
    "\"qq\": \"it's \\\"q\\\"\","
    "\"tabs\": \"a\\tb\\\\cd\177\342\200\213\302\240\","
    "\"big\": 123456789012,"
    "\"people\": [{\"name\": \"Bo\", \"age\": 3}, {\"name\": \"al\", \"age\": 2}, {\"name\": \"Cy\", "
    "\"age\": 3}]}";

#endif
