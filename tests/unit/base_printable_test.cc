// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "base/printable.h"

#include <dwunw/printable.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace {

std::string shown(std::string_view text) {
    std::string result(dwunw::base::printable(text, nullptr, 0), '\0');
    EXPECT_EQ(dwunw::base::printable(text, result.data(), result.size() + 1), result.size());
    return result;
}

std::string escaped(std::string_view text) {
    std::string result;
    for (const char c : text) {
        char escape[5];
        std::snprintf(escape, sizeof escape, "\\x%02x", static_cast<unsigned>(static_cast<uint8_t>(c)));
        result += escape;
    }
    return result;
}

// As the standard's table has it, surrogates and too large values included.
std::string utf8(uint32_t c) {
    const auto byte = [](uint32_t value) { return static_cast<char>(value); };
    if (c < 0x80)
        return {byte(c)};
    if (c < 0x800)
        return {byte(0xc0 | c >> 6), byte(0x80 | (c & 0x3f))};
    if (c < 0x10000)
        return {byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f))};
    return {byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 0x3f)), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f))};
}

// What undoes it: the test of "can be had back".
std::string unescaped(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size();) {
        if (text[i] != '\\') {
            result += text[i++];
        } else if (text.at(i + 1) == '\\') {
            result += '\\';
            i += 2;
        } else {
            EXPECT_EQ(text.at(i + 1), 'x');
            result += static_cast<char>(std::stoi(std::string(text.substr(i + 2, 2)), nullptr, 16));
            i += 4;
        }
    }
    return result;
}

TEST(Printable, EveryByteAlone) {
    for (unsigned value = 0; value < 256; value++) {
        const std::string text(1, static_cast<char>(value));
        const bool passes = value >= 0x20 && value < 0x7f && value != '\\';
        EXPECT_EQ(shown(text), passes ? text : value == '\\' ? "\\\\" : escaped(text)) << value;
    }
}

TEST(Printable, EveryCodePoint) {
    const auto refused = [](uint32_t c) {
        const auto in = [c](uint32_t first, uint32_t last) { return c >= first && c <= last; };
        return c < 0x20 || in(0x7f, 0x9f) || c == 0xad || c == 0x61c || c == 0x180e || c == 0x200b ||
               in(0x200e, 0x200f) || in(0x2028, 0x202e) || in(0x2060, 0x206f) || in(0xd800, 0xdfff) || c == 0xfeff ||
               in(0xfff9, 0xfffb) || in(0xfffe, 0xffff) || in(0xe0000, 0xe0fff) || c > 0x10ffff;
    };
    for (uint32_t c = 0; c < 0x111000; c++) {
        const std::string text = utf8(c);
        const std::string expected = c == '\\' ? "\\\\" : refused(c) ? escaped(text) : text;
        char out[32];
        if (dwunw::base::printable(text, out, sizeof out) != expected.size() ||
            expected != std::string_view(out, expected.size()))
            FAIL() << std::hex << c;
    }
}

TEST(Printable, BytesThatAreNotUtf8) {
    for (const std::string text :
         {"\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf",
          "\xf8\x88\x80\x80\x80", "\xff", "\xfe", "\x80", "\xbf", "\xc3", "\xe2\x82", "\xf0\x9f\x98"})
        EXPECT_EQ(shown(text), escaped(text));
    // What follows a broken character counts for itself.
    EXPECT_EQ(shown("\xe2\x82z"), "\\xe2\\x82z");
    EXPECT_EQ(shown("\xe2\xc3\xa4"), "\\xe2\xc3\xa4");
    EXPECT_EQ(shown("\xc2\x1b[31m"), "\\xc2\\x1b[31m");
}

TEST(Printable, TheTextCanBeRecovered) {
    std::string every;
    for (unsigned value = 0; value < 256; value++)
        every += static_cast<char>(value);
    for (const std::string &text : {every, std::string("C:\\x41\\\\"), std::string("\\x1b\x1b"),
                                    std::string("a\xe2\x80\xae"
                                                "b")}) {
        EXPECT_EQ(unescaped(shown(text)), text);
        EXPECT_LE(shown(text).size(), 4 * text.size());
    }
    EXPECT_NE(shown("\\x1b"), shown("\x1b"));
}

TEST(Printable, NoUnitIsCut) {
    const std::string text = "a\x1b\xc3\xa4\\b";
    const std::string whole = "a\\x1b\xc3\xa4\\\\b";
    ASSERT_EQ(shown(text), whole);
    const std::vector<size_t> ends = {0, 1, 5, 7, 9, 10};
    for (size_t size = 0; size <= whole.size() + 2; size++) {
        std::string out(size + 1, '#');
        EXPECT_EQ(dwunw::base::printable(text, out.data(), size), whole.size());
        EXPECT_EQ(out[size], '#') << "it wrote past the end";
        if (size == 0)
            continue;
        size_t fits = 0;
        for (const size_t end : ends)
            fits = end < size ? end : fits;
        EXPECT_STREQ(out.c_str(), whole.substr(0, fits).c_str()) << size;
    }
}

TEST(Printable, TheCInterface) {
    char out[8] = "#######";
    EXPECT_EQ(dwunw_printable("a\nb", nullptr, 0), 6U);
    EXPECT_EQ(dwunw_printable("a\nb", out, sizeof out), 6U);
    EXPECT_STREQ(out, "a\\x0ab");
    EXPECT_EQ(dwunw_printable(nullptr, out, sizeof out), 0U);
    EXPECT_STREQ(out, "");
}

} // namespace
