// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "memleak/probes.h"

#include "output.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace dwunw_tool::memleak {

bool Probes::is_asked_for(const MappedFile &file) const {
    if (options_.object.empty())
        return true;
    const std::string name = file.path.substr(file.path.rfind('/') + 1);
    return options_.object == file.path || options_.object == name;
}

void Probes::attach(int32_t pid, const std::string &path, const MappedFile &mapped, const Allocator &found,
                    bool by_instruction, File &file) {
    const auto points = points_of(found, by_instruction);
    if (points.empty())
        return;
    dwunw_status status = DWUNW_OK;
    Attachment attachment = kernel_.attach(path, owner(pid), points, by_instruction, status);
    if (attachment == nullptr) {
        problems_.push_back(mapped.path + ": " + dwunw_status_string(status) + " (" + std::strerror(errno) + ")");
        return;
    }
    file.attachments.push_back(std::move(attachment));
    for (const Site &site : found.sites)
        if (options_.verbose && site.by_instruction == by_instruction)
            std::fprintf(stderr, "probe: %s in %s: %s%s\n", printable(site.symbol).c_str(),
                         printable(mapped.path).c_str(), site.reason.c_str(),
                         by_instruction ? "; returns by return instructions" : "");
    file.has_heap |= found.has_heap;
}

// False: there was a problem.
bool Probes::probe(int32_t pid, const MappedFile &mapped, File &file) {
    const std::string path = reachable_path(pid, mapped);
    const size_t problems = problems_.size();
    if (path.empty()) {
        problems_.push_back(mapped.path + ": cannot be opened");
        return false;
    }
    const Allocator found =
        find_allocator(path, options_.prefix ? &*options_.prefix : nullptr, kernel_.all_by_instruction());
    if (!found.sites.empty())
        for (const std::string &problem : found.problems)
            problems_.push_back(mapped.path + ": " + problem);
    if (found.is_only_allocator)
        only_allocators_.insert(mapped.path);
    attach(pid, path, mapped, found, true, file);
    attach(pid, path, mapped, found, false, file);
    return problems_.size() == problems;
}

bool Probes::is_mapped(int32_t pid, const MappedFile &file) {
    const std::vector<MappedFile> files = mapped_files(pid);
    return std::any_of(files.begin(), files.end(), [&](const MappedFile &other) {
        return other.inode == file.inode && other.device == file.device;
    });
}

void Probes::look(int32_t pid) {
    std::vector<Key> &seen = files_of_[pid];
    for (const MappedFile &mapped : mapped_files(pid)) {
        const Key key{owner(pid), mapped.device, mapped.inode};
        if (std::find(seen.begin(), seen.end(), key) == seen.end())
            seen.push_back(key);
        const auto [at, is_new] = files_.try_emplace(key);
        if (!is_new)
            continue;
        at->second.path = mapped.path;
        const size_t problems = problems_.size();
        if (!is_asked_for(mapped) || probe(pid, mapped, at->second) || !at->second.attachments.empty() ||
            is_mapped(pid, mapped))
            continue;
        // The process has ended meanwhile, or executed another program. Another one may still map the file.
        problems_.resize(problems);
        files_.erase(at);
        std::erase(seen, key);
    }
}

void Probes::forget(int32_t pid) {
    files_of_.erase(pid);
    if (!everywhere_)
        std::erase_if(files_, [&](const auto &entry) { return entry.first.pid == pid; });
}

bool Probes::has_heap(int32_t pid) const {
    const auto found = files_of_.find(pid);
    return found != files_of_.end() && std::any_of(found->second.begin(), found->second.end(), [&](const Key &key) {
               const auto file = files_.find(key);
               return file != files_.end() && file->second.has_heap;
           });
}

std::vector<std::string> Probes::looked_at(int32_t pid) const {
    std::vector<std::string> paths;
    if (const auto found = files_of_.find(pid); found != files_of_.end())
        for (const Key &key : found->second)
            if (const auto file = files_.find(key); file != files_.end())
                paths.push_back(file->second.path);
    return paths;
}

} // namespace dwunw_tool::memleak
