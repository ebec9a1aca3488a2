// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module_store.h"

#include <elf.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace dwunw::process {
namespace {

bool is_elf(const ByteSource &source) {
    std::array<uint8_t, SELFMAG> magic;
    return source.read_exactly(FileOffset(0), magic) && std::memcmp(magic.data(), ELFMAG, SELFMAG) == 0;
}

} // namespace

Result<const dwunw_module *> ModuleStore::intern(const LocatedFile &file, std::string_view path, Content content) {
    const FileIdentity &identity = file.identity();
    const std::pair key(identity.device, identity.inode);
    std::shared_ptr<const UniqueFd> fd;
    // True if a module for `identity` was found, or there is nothing more to try.
    auto find = [&]() -> Result<const dwunw_module *> {
        const auto inode = inodes_.find(key);
        if (inode == inodes_.end())
            return nullptr;
        for (const auto &version : inode->second.versions)
            if (version->identity() == identity)
                return name(version.get(), DWUNW_OK, path);
        if (inode->second.versions.size() >= kMaxVersions)
            return Error{DWUNW_ERR_LIMIT, inode->second.versions.size()};
        fd = inode->second.fd;
        return nullptr;
    };
    {
        const std::lock_guard lock(mutex_);
        if (auto found = find(); !found || *found != nullptr)
            return found;
    }
    if (fd == nullptr) {
        auto opened = file.open();
        if (!opened)
            return opened.error();
        fd = std::make_shared<const UniqueFd>(std::move(*opened));
    }
    auto source = std::make_shared<const FileSource>(fd, identity.size);
    if (content == Content::kElf && !is_elf(*source))
        return Error{DWUNW_ERR_NOT_ELF};
    auto module = std::make_unique<const Module>(std::move(source), fd->get(), identity, memory_);

    const std::lock_guard lock(mutex_);
    if (auto found = find(); !found || *found != nullptr)
        return found; // another thread was faster
    Inode &inode = inodes_[key];
    if (inode.fd == nullptr)
        inode.fd = std::move(fd);
    inode.versions.push_back(std::move(module));
    return name(inode.versions.back().get(), DWUNW_OK, path);
}

const Module *ModuleStore::known(const FileIdentity &identity) const {
    const std::lock_guard lock(mutex_);
    const auto inode = inodes_.find({identity.device, identity.inode});
    if (inode == inodes_.end())
        return nullptr;
    const auto &versions = inode->second.versions;
    const auto found =
        std::ranges::find_if(versions, [&](const auto &version) { return version->identity() == identity; });
    return found != versions.end() ? found->get() : nullptr;
}

const dwunw_module *ModuleStore::current(uint64_t device, uint64_t inode, std::string_view path) {
    const std::lock_guard lock(mutex_);
    const auto known = inodes_.find({device, inode});
    struct stat status {};
    if (known == inodes_.end() || ::fstat(known->second.fd->get(), &status) != 0)
        return nullptr;
    const FileIdentity identity = FileIdentity::from(status);
    for (const auto &version : known->second.versions)
        if (version->identity() == identity)
            return name(version.get(), DWUNW_OK, path);
    return nullptr;
}

Result<const dwunw_module *> ModuleStore::intern(std::unique_ptr<const MemoryImage> image, std::string_view path) {
    if (!is_elf(*image))
        return Error{DWUNW_ERR_NOT_ELF};
    const size_t hash = image->hash();
    const std::lock_guard lock(mutex_);
    const auto [first, last] = images_.equal_range(hash);
    for (auto it = first; it != last; ++it)
        if (*it->second.image == *image)
            return name(it->second.file.get(), DWUNW_OK, path);
    const MemoryImage *bytes = image.get();
    auto file = std::make_unique<const Module>(std::move(image), -1, std::nullopt, memory_);
    const auto it = images_.emplace(hash, MemoryModule{bytes, std::move(file)});
    return name(it->second.file.get(), DWUNW_OK, path);
}

const dwunw_module *ModuleStore::intern_unusable(std::string_view path, dwunw_status status) {
    const std::lock_guard lock(mutex_);
    return name(nullptr, status, path);
}

Result<std::shared_ptr<const unwind::ModuleCfi>> ModuleStore::cfi(const Module &file) {
    auto cfi = file.cfi();
    if (!cfi && file.lacked_room() != 0) {
        make_room(file.lacked_room());
        cfi = file.cfi();
    }
    if (!cfi)
        return cfi;
    file.touch(clock_.fetch_add(1, std::memory_order_relaxed));
    if ((*cfi)->table() != nullptr || !(*cfi)->claim_compile())
        return cfi;
    if ((*cfi)->section_bytes() > kCompileAtOnce && queue_.add(*cfi))
        return cfi;
    // A file that has changed has no table. A lookup in its FDEs then gives the error.
    if (!(*cfi)->compile())
        failed_.fetch_add(1, std::memory_order_relaxed);
    evict();
    return cfi;
}

template <typename Visit> void ModuleStore::each_file(Visit &&visit) const {
    for (const auto &[key, inode] : inodes_)
        for (const auto &version : inode.versions)
            visit(*version);
    for (const auto &[hash, module] : images_)
        visit(*module.file);
}

std::vector<const Module *> ModuleStore::holders(size_t &total) const {
    total = 0;
    std::vector<const Module *> holders;
    each_file([&](const Module &file) {
        if (const size_t bytes = file.cfi_bytes(); bytes != 0) {
            total += bytes;
            holders.push_back(&file);
        }
    });
    std::ranges::sort(holders, {}, &Module::touched);
    return holders;
}

void ModuleStore::evict() {
    compiled_.fetch_add(1, std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    size_t total = 0;
    for (const Module *file : holders(total)) {
        if (total <= budget_)
            return;
        const size_t freed = file->drop_cfi();
        evicted_.fetch_add(freed != 0, std::memory_order_relaxed);
        total -= freed;
    }
}

void ModuleStore::make_room(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    size_t total = 0;
    for (const Module *file : holders(total)) {
        if (memory_->sections.left() >= bytes)
            return;
        if (file->holds_share())
            evicted_.fetch_add(file->drop_cfi() != 0, std::memory_order_relaxed);
    }
}

ModuleStore::Totals ModuleStore::totals() const {
    Totals totals;
    totals.compiled = compiled_.load(std::memory_order_relaxed);
    totals.evicted = evicted_.load(std::memory_order_relaxed);
    totals.failed = queue_.failures() + failed_.load(std::memory_order_relaxed);
    totals.compiled -= totals.failed;
    const std::lock_guard lock(mutex_);
    each_file([&](const Module &file) {
        ++totals.modules;
        totals.table_bytes += file.cfi_bytes();
    });
    return totals;
}

const dwunw_module *ModuleStore::name(const Module *file, dwunw_status status, std::string_view path) {
    auto &names = modules_[{file, status}];
    auto it = names.find(path);
    if (it == names.end()) {
        auto module = std::make_unique<dwunw_module>();
        module->path = path;
        module->file = file;
        module->status = status;
        it = names.emplace(module->path, std::move(module)).first;
    }
    return it->second.get();
}

} // namespace dwunw::process
