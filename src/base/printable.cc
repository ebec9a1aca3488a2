// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//
// The owner of a name chooses it, and may choose it to attack the terminal that prints it: to end a line, to move the
// cursor, to reverse the direction of the text behind it, or to look like another name. Only this file decides which
// characters pass; tests/unit/base_printable_test checks every code point.
#include "base/printable.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>

namespace dwunw::base {
namespace {

// Code points that do not pass, in ascending order.
struct Range {
    uint32_t first, last;
};
constexpr Range kRefused[] = {
    {0x0000, 0x001f},       // C0 controls
    {0x005c, 0x005c},       // the backslash: it opens an escape
    {0x007f, 0x009f},       // DEL, C1 controls
    {0x00ad, 0x00ad},       // soft hyphen
    {0x061c, 0x061c},       // Arabic letter mark
    {0x180e, 0x180e},       // Mongolian vowel separator
    {0x200b, 0x200b},       // zero width space
    {0x200e, 0x200f},       // left-to-right and right-to-left marks
    {0x2028, 0x202e},       // line and paragraph separators, bidirectional embeddings and overrides
    {0x2060, 0x206f},       // invisible operators, bidirectional isolates, deprecated format characters
    {0xd800, 0xdfff},       // surrogates: no characters
    {0xfeff, 0xfeff},       // byte order mark
    {0xfff9, 0xfffb},       // interlinear annotation
    {0xfffe, 0xffff},       // no characters
    {0xe0000, 0xe0fff},     // tags and variation selectors: invisible
    {0x110000, UINT32_MAX}, // beyond Unicode
};

bool passes(uint32_t code_point) {
    const Range *range = std::lower_bound(std::begin(kRefused), std::end(kRefused), code_point,
                                          [](const Range &r, uint32_t value) { return r.last < value; });
    return code_point < range->first;
}

// The length of the UTF-8 character at the beginning of `text`; 0 if the bytes are not UTF-8 or the character does not
// pass.
size_t character(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80)
        return passes(lead) ? 1 : 0;
    const size_t length = lead < 0xc0 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf8 ? 4 : 0;
    if (length == 0 || length > text.size())
        return 0;
    uint32_t code_point = lead & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((byte(i) & 0xc0) != 0x80)
            return 0;
        code_point = code_point << 6 | (byte(i) & 0x3fu);
    }
    // UTF-8 forbids an encoding that is longer than necessary.
    constexpr uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
    return code_point >= kSmallest[length] && passes(code_point) ? length : 0;
}

} // namespace

size_t printable(std::string_view text, char *out, size_t size) {
    constexpr char kDigits[] = "0123456789abcdef";
    size_t whole = 0;   // length of the result
    size_t written = 0; // bytes written to `out`
    for (size_t i = 0; i < text.size();) {
        char escape[4];
        const char *unit = &text[i];
        size_t unit_length = character(text.substr(i));
        i += std::max<size_t>(unit_length, 1);
        if (unit_length == 0) {
            const auto byte = static_cast<uint8_t>(*unit);
            escape[0] = escape[1] = '\\';
            unit_length = 2;
            if (byte != '\\') {
                escape[1] = 'x';
                escape[2] = kDigits[byte >> 4];
                escape[3] = kDigits[byte & 0xf];
                unit_length = 4;
            }
            unit = escape;
        }
        // Never cut a unit, and never leave one out before a unit that fits.
        if (written == whole && whole + unit_length < size) {
            std::memcpy(out + written, unit, unit_length);
            written += unit_length;
        }
        whole += unit_length;
    }
    if (size != 0)
        out[written] = '\0';
    return whole;
}

} // namespace dwunw::base
