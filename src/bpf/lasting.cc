// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "bpf/lasting.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <unordered_map>

namespace dwunw::bpf {

Lasting find_lasting(std::span<const process::Process::CodeMapping> mappings, RunAddr entry, RunAddr linker,
                     const std::function<const elf::Dynamic &(const dwunw_module &)> &dynamic) {
    using Object = std::pair<const dwunw_module *, uint64_t>; // a module and its load bias
    std::map<Object, std::vector<size_t>> objects;
    std::vector<Object> todo;
    for (size_t i = 0; i < mappings.size(); ++i) {
        const auto &[start, end, binding, cfi] = mappings[i];
        if (binding.kind != unwind::CodeKind::kModule)
            continue;
        const Object object(binding.module, binding.bias.value);
        objects[object].push_back(i);
        const bool is_linker = linker.value != 0 && binding.bias.value == linker.value;
        const bool is_program = entry >= start && entry < end;
        if (is_linker || is_program || binding.module->path == "[vdso]")
            todo.push_back(object);
    }
    // The names are views of strings that live as long as the modules.
    std::unordered_multimap<std::string_view, Object> by_name;
    bool all_named = true;
    for (const auto &[object, numbers] : objects) {
        const std::string_view path = object.first->path;
        const std::string_view file = path.substr(path.rfind('/') + 1);
        const std::string_view name = dynamic(*object.first).name;
        // A library without readable names may have any name: it may be the one that another library seems to be.
        const bool is_start = std::ranges::find(todo, object) != todo.end();
        all_named = all_named && (is_start || dynamic(*object.first).whole);
        by_name.emplace(file, object);
        if (!name.empty() && name != file)
            by_name.emplace(name, object);
    }

    Lasting result;
    std::vector<Object> stay;
    while (!todo.empty()) {
        const Object object = todo.back();
        todo.pop_back();
        if (std::ranges::find(stay, object) != stay.end())
            continue;
        stay.push_back(object);
        const elf::Dynamic &names = dynamic(*object.first);
        if (!all_named) {
            result.whole = false;
            continue;
        }
        for (const std::string &needed : names.needed) {
            // A name with a slash is a path; its last part is the file's name.
            const std::string_view name = std::string_view(needed).substr(needed.rfind('/') + 1);
            const auto [first, last] = by_name.equal_range(name);
            if (first != last && std::next(first) == last)
                todo.push_back(first->second);
            else
                result.whole = false;
        }
    }
    for (const Object &object : stay)
        result.mappings.insert(result.mappings.end(), objects[object].begin(), objects[object].end());
    std::ranges::sort(result.mappings);
    return result;
}

} // namespace dwunw::bpf
