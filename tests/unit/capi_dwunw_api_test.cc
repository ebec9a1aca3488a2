// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include <dwunw/dwunw_api.h>

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace {

TEST(DwunwApi, StatusTextsAreDistinct) {
    std::set<std::string> texts;
    size_t count = 0;
#define ADD(name, value, text)                                                                                         \
    EXPECT_EQ(int{name}, value);                                                                                       \
    texts.insert(dwunw_status_string(name));                                                                           \
    ++count;
    DWUNW_STATUS_LIST(ADD)
#undef ADD
    EXPECT_EQ(texts.size(), count);
    for (const int value : {-1, static_cast<int>(count), 1000})
        EXPECT_STREQ(dwunw_status_string(static_cast<dwunw_status>(value)), "unknown status");
}

TEST(DwunwApi, InitTakesNoConfigOrAKnownOne) {
    dwunw_context *context = nullptr;
    ASSERT_EQ(dwunw_init(nullptr, &context), DWUNW_OK);
    EXPECT_NE(context, nullptr);
    dwunw_shutdown(context);
    dwunw_config config{.size = sizeof(config), .reserved = 0, .table_budget = 0};
    context = nullptr;
    ASSERT_EQ(dwunw_init(&config, &context), DWUNW_OK);
    dwunw_shutdown(context);

    context = nullptr;
    for (const uint32_t size : {0u, 2u, 6u}) {
        config.size = size;
        EXPECT_EQ(dwunw_init(&config, &context), DWUNW_ERR_STRUCT_SIZE) << size;
    }
    config = {.size = sizeof(config), .reserved = 1, .table_budget = 0};
    EXPECT_EQ(dwunw_init(&config, &context), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_init(nullptr, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(context, nullptr);
    dwunw_shutdown(nullptr);
}

TEST(DwunwApi, ContextCountersCheckTheirArguments) {
    dwunw_context *context = nullptr;
    ASSERT_EQ(dwunw_init(nullptr, &context), DWUNW_OK);
    dwunw_wait_for_tables(context);
    dwunw_wait_for_tables(nullptr);
    dwunw_context_counters counters{};
    EXPECT_EQ(dwunw_context_get_counters(context, &counters), DWUNW_ERR_STRUCT_SIZE);
    counters.size = sizeof(counters);
    EXPECT_EQ(dwunw_context_get_counters(nullptr, &counters), DWUNW_ERR_INVALID_ARGUMENT);
    ASSERT_EQ(dwunw_context_get_counters(context, &counters), DWUNW_OK);
    EXPECT_EQ(counters.modules + counters.table_bytes + counters.tables_compiled + counters.tables_evicted, 0u);
    dwunw_shutdown(context);
}

} // namespace
