// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Which files are probed already, and the probes themselves.
#pragma once

#include "memleak/allocators.h"
#include "memleak/kernel.h"

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

namespace dwunw_tool::memleak {

class Probes {
  public:
    // `everywhere`: the probes are in every process that maps a file, and the kernel half sorts out whom they are for.
    // Otherwise they are in the watched processes only.
    Probes(Kernel &kernel, const Options &options, bool everywhere)
        : kernel_(kernel), options_(options), everywhere_(everywhere) {}

    // Looks through the files that a process has mapped, and probes the allocators in those that are new.
    void look(int32_t pid);
    // Takes the probes of a process away that has ended.
    void forget(int32_t pid);
    // Takes all probes away.
    void detach() { files_.clear(); }

    // Whether the process has a malloc that is probed.
    bool has_heap(int32_t pid) const;
    // Whether this file is an allocator and nothing else.
    bool is_only_allocator(const std::string &path) const { return only_allocators_.contains(path); }
    // The files that were looked at in vain, for a message.
    std::vector<std::string> looked_at(int32_t pid) const;
    // What could not be probed, a line each.
    const std::vector<std::string> &problems() const { return problems_; }

  private:
    struct Key {
        int32_t pid; // 0: everywhere
        uint64_t device, inode;
        auto operator<=>(const Key &) const = default;
    };
    struct File {
        std::string path; // as the process sees it
        bool has_heap = false;
        std::vector<Attachment> attachments;
    };
    bool is_asked_for(const MappedFile &file) const;
    static bool is_mapped(int32_t pid, const MappedFile &file);
    bool probe(int32_t pid, const MappedFile &mapped, File &file);
    void attach(int32_t pid, const std::string &path, const MappedFile &mapped, const Allocator &found,
                bool by_instruction, File &file);
    int32_t owner(int32_t pid) const { return everywhere_ ? 0 : pid; }

    Kernel &kernel_;
    const Options &options_;
    bool everywhere_;
    std::map<Key, File> files_;
    std::map<int32_t, std::vector<Key>> files_of_; // a process's, in the order of its map
    std::vector<std::string> problems_;
    std::set<std::string> only_allocators_;
};

} // namespace dwunw_tool::memleak
