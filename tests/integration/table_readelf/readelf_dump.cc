// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "readelf_dump.h"

#include "command_lines.h"

#include <array>
#include <charconv>
#include <optional>
#include <unordered_map>

namespace table_readelf {
namespace {

constexpr std::string_view kBlank = " \t";

std::string_view take_word(std::string_view &line) {
    const size_t begin = std::min(line.find_first_not_of(kBlank), line.size());
    const size_t end = std::min(line.find_first_of(kBlank, begin), line.size());
    const std::string_view word = line.substr(begin, end - begin);
    line.remove_prefix(end);
    return word;
}

// A column's value. "r1 (rdx)" is one, and stands for rdx.
std::string_view take_value(std::string_view &line) {
    const std::string_view word = take_word(line);
    if (!line.starts_with(" ("))
        return word;
    const size_t close = std::min(line.find(')'), line.size());
    const std::string_view name = line.substr(2, close - 2);
    line.remove_prefix(std::min(close + 1, line.size()));
    return name;
}

bool parse_hex(std::string_view text, uint64_t &value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

class DumpReader {
  public:
    DumpReader(Rules &rules, ReadelfDump &dump) : rules_(rules), dump_(dump) {}

    void line(std::string_view text) {
        // readelf flushes its output before it complains, so a message may stand behind half a line; what follows it is
        // a new line.
        const size_t said = text.find("readelf: ");
        if (said != std::string_view::npos) {
            message(text.substr(said));
            text = text.substr(0, said);
        }
        if (text.find_first_not_of(kBlank) == std::string_view::npos)
            return;
        if (!contents(text) && !columns(text) && !row(text) && !entry(text))
            message(text);
    }

    // The last entry's end.
    void finish() {
        if (!in_fde_)
            return;
        ReadelfFde &fde = dump_.fdes.back();
        if (fde.changes.empty() && cie_rule_)
            fde.changes.push_back({fde.start, *cie_rule_});
        in_fde_ = false;
    }

  private:
    void message(std::string_view text) {
        dump_.messages.push_back("after " + (last_entry_.empty() ? "the start" : last_entry_) + ": " +
                                 std::string(text));
    }

    bool contents(std::string_view text) {
        constexpr std::string_view kBefore = "Contents of the ";
        if (!text.starts_with(kBefore))
            return false;
        finish();
        text.remove_prefix(kBefore.size());
        section_ = take_word(text) == ".eh_frame" ? 0 : 1;
        cies_.clear();
        return true;
    }

    bool columns(std::string_view text) {
        if (take_word(text) != "LOC")
            return false;
        columns_.clear();
        for (std::string_view name = take_word(text); !name.empty(); name = take_word(text))
            columns_.push_back(name == "CFA" ? kCfa : name == "ra" ? kRa : name == "rbp" ? kFp : kOther);
        return true;
    }

    bool row(std::string_view text) {
        constexpr size_t kAddressDigits = 16;
        uint64_t address = 0;
        if (text.size() <= kAddressDigits || text[kAddressDigits] != ' ' ||
            !parse_hex(text.substr(0, kAddressDigits), address) || columns_.empty())
            return false;
        text.remove_prefix(kAddressDigits);
        std::array<std::string_view, 4> found{"", "s", "u", ""};
        for (const Column column : columns_) {
            found[column] = take_value(text);
            if (found[column].empty())
                return false;
        }
        rule_.assign(found[kCfa]).append(" ").append(found[kRa]).append(" ");
        rule_.append(found[kFp] == "u" ? "s" : found[kFp]);
        const uint32_t rule = rules_.number(rule_);
        if (in_fde_)
            dump_.fdes.back().changes.push_back({address, rule});
        else
            cies_[cie_] = rule;
        return true;
    }

    // "00000018 0000000000000014 0000001c FDE cie=00000000 pc=00000000000023d0..00000000000023f2"
    bool entry(std::string_view text) {
        const std::string_view whole = text;
        uint64_t offset = 0;
        if (!parse_hex(take_word(text), offset))
            return false;
        if (text == " ZERO terminator") {
            finish();
            return true;
        }
        take_word(text);
        take_word(text);
        const std::string_view kind = take_word(text);
        if (kind != "CIE" && kind != "FDE")
            return false;
        finish();
        columns_.clear();
        last_entry_ =
            std::string(whole.substr(0, whole.find(' '))) + " of " + (section_ ? ".debug_frame" : ".eh_frame");
        if (kind == "CIE") {
            cie_ = offset;
            return true;
        }
        return fde(offset, text);
    }

    bool fde(uint64_t offset, std::string_view text) {
        std::string_view cie_text = take_word(text);
        std::string_view range = take_word(text);
        if (!cie_text.starts_with("cie=") || !range.starts_with("pc="))
            return false;
        range.remove_prefix(3);
        if (const size_t segment = range.find(':'); segment != std::string_view::npos)
            range.remove_prefix(segment + 1);
        const size_t dots = range.find("..");
        ReadelfFde fde;
        fde.section = section_;
        fde.offset = offset;
        uint64_t cie = 0;
        if (!parse_hex(cie_text.substr(4), cie) || dots == std::string_view::npos ||
            !parse_hex(range.substr(0, dots), fde.start) || !parse_hex(range.substr(dots + 2), fde.end))
            return false;
        const auto known = cies_.find(cie);
        cie_rule_ = known == cies_.end() ? std::nullopt : std::optional(known->second);
        dump_.fdes.push_back(std::move(fde));
        in_fde_ = true;
        return true;
    }

    enum Column : uint8_t { kCfa, kRa, kFp, kOther };

    Rules &rules_;
    ReadelfDump &dump_;
    uint32_t section_ = 0;
    std::unordered_map<uint64_t, uint32_t> cies_; // of this section: the last rule of each
    std::vector<Column> columns_;
    std::string last_entry_;
    std::string rule_;
    uint64_t cie_ = 0;
    bool in_fde_ = false;
    std::optional<uint32_t> cie_rule_; // of the FDE's CIE
};

} // namespace

ReadelfDump read_readelf(const std::string &readelf, const std::string &path, Rules &rules) {
    ReadelfDump dump;
    DumpReader reader(rules, dump);
    // Not the separate debug file's sections, which it would print as if they were the file's own.
    dump.status = run_command({readelf, "--debug-dump=frames-interp", "--debug-dump=no-follow-links", path},
                              [&](std::string_view line) { reader.line(line); });
    reader.finish();
    return dump;
}

} // namespace table_readelf
