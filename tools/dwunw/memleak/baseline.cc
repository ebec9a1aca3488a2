// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/baseline.h"

#include <dwunw/process.h>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <unistd.h>

namespace dwunw_tool::memleak {
namespace {

using nlohmann::json;
constexpr const char *kFormat = "dwunw-memleak-1";

std::vector<std::string> texts_of(const Rows &rows, const Row &row) {
    std::vector<std::string> texts;
    for (const dwunw_frame &frame : rows.frames(row)) {
        char address[32];
        std::snprintf(address, sizeof address, "+0x%" PRIx64, frame.module_offset);
        texts.push_back(frame.module == nullptr ? "?" : dwunw_module_path(frame.module) + std::string(address));
    }
    return texts;
}

std::string key_of(const std::string &memory, const std::vector<std::string> &frames) {
    std::string key = memory;
    for (const std::string &frame : frames)
        key += '\n' + frame;
    return key;
}

} // namespace

std::string Baseline::read(const std::string &path) {
    std::ifstream file(path);
    if (!file)
        return path + ": " + std::strerror(errno);
    const json whole = json::parse(file, nullptr, false);
    if (!whole.is_object() || whole.value("format", "") != kFormat || !whole.contains("stacks"))
        return path + ": not a report that dwunw memleak saved";
    try {
        for (const json &stack : whole.at("stacks")) {
            Entry &entry = entries_[key_of(stack.at("memory"), stack.at("frames").get<std::vector<std::string>>())];
            entry.bytes += stack.at("bytes").get<uint64_t>();
            entry.count += stack.at("count").get<uint64_t>();
        }
    } catch (const json::exception &error) {
        return path + ": " + error.what();
    }
    return {};
}

std::string Baseline::write(const std::string &path, const Rows &rows) {
    json stacks = json::array();
    for (const Row &row : rows.rows())
        stacks.push_back({{"memory", name_of(row.memory)},
                          {"bytes", row.amount.bytes},
                          {"count", row.amount.count},
                          {"frames", texts_of(rows, row)}});
    const std::string temporary = path + ".new";
    std::ofstream file(temporary, std::ios::trunc);
    // A path may hold any byte.
    file << json{{"format", kFormat}, {"stacks", std::move(stacks)}}.dump(1, ' ', false, json::error_handler_t::replace)
         << '\n';
    file.close();
    if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
        const int error = errno;
        ::unlink(temporary.c_str());
        return path + ": cannot be written: " + std::strerror(error);
    }
    return {};
}

Baseline::Entry Baseline::find(const Rows &rows, const Row &row) const {
    const auto found = entries_.find(key_of(name_of(row.memory), texts_of(rows, row)));
    return found == entries_.end() ? Entry{} : found->second;
}

} // namespace dwunw_tool::memleak
