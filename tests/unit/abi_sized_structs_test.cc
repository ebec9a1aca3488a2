// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Tests every function of the C ABI that takes a struct with a size, with structs of every size. The other arguments
// are NULL, so a function that accepts the struct returns DWUNW_ERR_INVALID_ARGUMENT for them.
#include "abi/sized_structs.h"

#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <string>
#include <vector>

namespace {

using dwunw::kFirstSize;

// The sizes of 0.1.0. No later version may change one.
static_assert(kFirstSize<dwunw_config> == 4);
static_assert(kFirstSize<dwunw_context_counters> == 4);
static_assert(kFirstSize<dwunw_process_options> == 16);
static_assert(kFirstSize<dwunw_process_counters> == 4);
static_assert(kFirstSize<dwunw_thread> == 24 + 16 + 8 * 34);
static_assert(kFirstSize<dwunw_unwind_request> == 96);
static_assert(kFirstSize<dwunw_regset> == 16 + 8 * 17);
static_assert(kFirstSize<dwunw_core_options> == 16);
static_assert(kFirstSize<dwunw_core_write_options> == 4);
static_assert(kFirstSize<dwunw_table_summary> == 4);
static_assert(kFirstSize<dwunw_row> == 72);
static_assert(kFirstSize<dwunw_refusal> == 24);
static_assert(kFirstSize<dwunw_symbol> == 32);
static_assert(kFirstSize<dwunw_probe_options> == 4);
static_assert(kFirstSize<dwunw_probe_placement> == 232);
static_assert(kFirstSize<dwunw_attach_programs> == 32);
static_assert(kFirstSize<dwunw_attach_plan> == 208);
static_assert(kFirstSize<dwunw_attach_request> == 32);
static_assert(kFirstSize<dwunw_bpf_options> == 4);
static_assert(kFirstSize<dwunw_bpf_stack> == 32);
static_assert(kFirstSize<dwunw_bpf_counters> == 4);

struct Function {
    std::string name;
    size_t first;
    size_t known;
    std::function<dwunw_status(void *)> call;
};

template <typename Struct> Function function(std::string name, std::function<dwunw_status(Struct *)> call) {
    return {std::move(name), kFirstSize<Struct>, sizeof(Struct),
            [call = std::move(call)](void *bytes) { return call(static_cast<Struct *>(bytes)); }};
}

template <typename Struct> Struct whole() {
    Struct result{};
    result.size = sizeof(result);
    return result;
}

dwunw_status place(const dwunw_probe_options *options, dwunw_probe_placement *out) {
    constexpr uint8_t kRet = 0xc3;
    const dwunw_status status = dwunw_probe_place_code(&kRet, 1, options, out);
    return status == DWUNW_OK ? DWUNW_ERR_INVALID_ARGUMENT : status; // the one function that succeeds like this
}

const std::vector<Function> &functions() {
    static const auto programs = whole<dwunw_attach_programs>();
    static const auto plan = whole<dwunw_attach_plan>();
    static const std::vector<Function> all = {
        function<dwunw_config>("dwunw_init", [](auto *s) { return dwunw_init(s, nullptr); }),
        function<dwunw_context_counters>("dwunw_context_get_counters",
                                         [](auto *s) { return dwunw_context_get_counters(nullptr, s); }),
        function<dwunw_process_options>("dwunw_process_open",
                                        [](auto *s) { return dwunw_process_open(nullptr, s, nullptr); }),
        function<dwunw_process_counters>("dwunw_process_get_counters",
                                         [](auto *s) { return dwunw_process_get_counters(nullptr, s); }),
        function<dwunw_thread>("dwunw_stopped_thread", [](auto *s) { return dwunw_stopped_thread(nullptr, 0, s); }),
        function<dwunw_thread>("dwunw_core_thread", [](auto *s) { return dwunw_core_thread(nullptr, 0, s); }),
        function<dwunw_core_options>("dwunw_core_open", [](auto *s) { return dwunw_core_open(nullptr, s, nullptr); }),
        function<dwunw_core_write_options>("dwunw_core_write",
                                           [](auto *s) { return dwunw_core_write(nullptr, nullptr, s, -1); }),
        function<dwunw_unwind_request>("dwunw_capture",
                                       [](auto *s) {
                                           size_t count = 0;
                                           return dwunw_capture(nullptr, s, &count);
                                       }),
        function<dwunw_regset>("dwunw_capture, its registers",
                               [](auto *s) {
                                   auto request = whole<dwunw_unwind_request>();
                                   size_t count = 0;
                                   request.regs = s;
                                   return dwunw_capture(nullptr, &request, &count);
                               }),
        function<dwunw_table_summary>("dwunw_table_get_summary",
                                      [](auto *s) { return dwunw_table_get_summary(nullptr, s); }),
        function<dwunw_row>("dwunw_table_get_row", [](auto *s) { return dwunw_table_get_row(nullptr, 0, s); }),
        function<dwunw_row>("dwunw_table_lookup", [](auto *s) { return dwunw_table_lookup(nullptr, 0, s); }),
        function<dwunw_refusal>("dwunw_table_get_refusal",
                                [](auto *s) { return dwunw_table_get_refusal(nullptr, 0, s); }),
        function<dwunw_symbol>("dwunw_symbolize_frame",
                               [](auto *s) { return dwunw_symbolize_frame(nullptr, nullptr, s); }),
        function<dwunw_probe_options>("dwunw_probe_place_code, its options",
                                      [](auto *s) {
                                          auto out = whole<dwunw_probe_placement>();
                                          return place(s, &out);
                                      }),
        function<dwunw_probe_placement>("dwunw_probe_place_code", [](auto *s) { return place(nullptr, s); }),
        function<dwunw_attach_programs>("dwunw_attach_prepare, its programs",
                                        [](auto *s) { return dwunw_attach_prepare(s, nullptr); }),
        function<dwunw_attach_plan>("dwunw_attach_prepare",
                                    [](auto *s) {
                                        auto wrong = programs;
                                        wrong.reserved = 1;
                                        return dwunw_attach_prepare(&wrong, s);
                                    }),
        function<dwunw_attach_programs>("dwunw_attach, its programs",
                                        [](auto *s) { return dwunw_attach(s, &plan, nullptr, nullptr); }),
        function<dwunw_attach_plan>("dwunw_attach, its plan",
                                    [](auto *s) { return dwunw_attach(&programs, s, nullptr, nullptr); }),
        function<dwunw_attach_request>("dwunw_attach",
                                       [](auto *s) { return dwunw_attach(&programs, &plan, s, nullptr); }),
        function<dwunw_bpf_options>("dwunw_bpf_open",
                                    [](auto *s) { return dwunw_bpf_open(nullptr, nullptr, s, nullptr); }),
        function<dwunw_bpf_stack>("dwunw_bpf_lookup",
                                  [](auto *s) { return dwunw_bpf_lookup(nullptr, 0, s, nullptr, 0); }),
        function<dwunw_bpf_counters>("dwunw_bpf_get_counters",
                                     [](auto *s) { return dwunw_bpf_get_counters(nullptr, s); }),
    };
    return all;
}

class SizedStructs : public ::testing::TestWithParam<Function> {
  protected:
    // The status for a struct of `size` bytes that are zero, but for byte `not_zero`.
    dwunw_status call(size_t size, size_t not_zero = 0) {
        alignas(16) std::array<unsigned char, dwunw::kLargestStruct + 16> bytes{};
        if (not_zero != 0)
            bytes.at(not_zero) = 1;
        const auto word = static_cast<uint32_t>(size);
        std::memcpy(bytes.data(), &word, sizeof(word));
        return GetParam().call(bytes.data());
    }
};

TEST_P(SizedStructs, TakesOlderAndNewerOnes) {
    const Function &function = GetParam();
    for (const size_t size : {size_t{0}, size_t{1}, function.first - 4, function.first - 1, function.known + 1,
                              dwunw::kLargestStruct + 4, size_t{UINT32_MAX} - 3})
        EXPECT_EQ(call(size), DWUNW_ERR_STRUCT_SIZE) << size;
    for (size_t size = function.first; size < function.known; size += 4)
        EXPECT_EQ(call(size), DWUNW_ERR_INVALID_ARGUMENT) << "older: " << size;
    EXPECT_EQ(call(function.known), DWUNW_ERR_INVALID_ARGUMENT);
    for (const size_t size : {function.known + 4, function.known + 8, dwunw::kLargestStruct})
        EXPECT_EQ(call(size), DWUNW_ERR_INVALID_ARGUMENT) << "newer: " << size;
    for (const size_t byte : {function.known, function.known + 7})
        EXPECT_EQ(call(function.known + 8, byte), DWUNW_ERR_STRUCT_SIZE) << "newer, byte " << byte << " is not zero";
    EXPECT_EQ(call(function.known + 8, function.known + 8), DWUNW_ERR_INVALID_ARGUMENT) << "what lies behind it";
}

INSTANTIATE_TEST_SUITE_P(OfTheAbi, SizedStructs, ::testing::ValuesIn(functions()), [](const auto &tested) {
    std::string name;
    for (const char c : tested.param.name)
        if (std::isalnum(static_cast<unsigned char>(c)) != 0)
            name += c;
    return name;
});

} // namespace
