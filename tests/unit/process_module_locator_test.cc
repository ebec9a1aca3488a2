// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "process/module_locator.h"

#include "process/live_target.h"
#include "process_testing.h"

#include <dlfcn.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sysmacros.h>

namespace dwunw::process {
namespace {

using testing::Child;
using testing::TemporaryFolder;

// A child that has loaded a plugin, as another process sees it.
class Loaded {
  public:
    explicit Loaded(
        const std::string &path, const std::function<void()> &before = [] {})
        : child_([&](const Child::Line &line) {
              before();
              void *handle = ::dlopen(path.c_str(), RTLD_NOW);
              line.say(handle != nullptr ? reinterpret_cast<uint64_t>(::dlsym(handle, "plugin_value")) : 0);
              line.hear();
          }),
          code(child_.hear()), directory_(testing::take(ProcDir::open(child_.pid()))),
          target(testing::take(LiveTarget::open(directory_))) {
        EXPECT_NE(code.value, 0u);
        read_maps();
    }
    void read_maps() { maps = testing::take(Maps::read(target->maps_fd())); }
    const Mapping &mapping() const { return *maps.find(code); }
    pid_t pid() const { return child_.pid(); }
    Result<const dwunw_module *> open() { return open_module(store, maps, mapping(), target.get()); }

  private:
    Child child_;

  public:
    RunAddr code;

  private:
    ProcDir directory_;

  public:
    std::shared_ptr<const LiveTarget> target;
    Maps maps;
    ModuleStore store;
};

bool is_plugin_a(const dwunw_module &module) {
    const auto own = FileSource::open(PLUGIN_A);
    const auto expected = elf::Image::parse(*own)->read_eh_frame(*own);
    const auto &image = module.file->image();
    if (!image)
        return false;
    const auto got = image->read_eh_frame(module.file->source());
    const auto &bytes = (*expected)->bytes;
    return got && got->has_value() && (*got)->bytes.size() >= bytes.size() &&
           std::equal(bytes.begin(), bytes.end(), (*got)->bytes.begin());
}

// Every test with rights opens by map_files; without, by path. `as_nobody` gives the rights up, in a child of its own
// that says what it got.
struct Outcome {
    uint64_t status = DWUNW_OK;
    uint64_t from_file = 0;
    uint64_t is_a = 0;
};
Outcome as_nobody(const std::function<Result<const dwunw_module *>()> &open) {
    Child child([&](const Child::Line &line) {
        if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0)
            ::_exit(1);
        const auto module = open();
        line.say(module ? DWUNW_OK : module.error().status);
        line.say(module && (*module)->file->fd() >= 0);
        line.say(module && is_plugin_a(**module));
    });
    Outcome outcome;
    outcome.status = child.hear();
    outcome.from_file = child.hear();
    outcome.is_a = child.hear();
    return outcome;
}

// A plugin in a folder that everybody may enter.
struct PluginFile {
    PluginFile() : path(folder / "plug in\n.so") {
        std::filesystem::permissions(std::filesystem::path(path).parent_path(), std::filesystem::perms::all);
        std::filesystem::copy_file(PLUGIN_A, path);
    }
    void replace(const char *by) const {
        std::filesystem::copy_file(by, folder / "new");
        std::filesystem::rename(folder / "new", path);
    }
    TemporaryFolder folder;
    std::string path;
};

TEST(OpenModule, AMappedFile) {
    const PluginFile plugin;
    Loaded loaded(plugin.path);
    const auto module = loaded.open();
    ASSERT_TRUE(module) << dwunw_status_string(module.error().status);
    EXPECT_EQ((*module)->path, plugin.path);
    EXPECT_GE((*module)->file->fd(), 0);
    EXPECT_TRUE(is_plugin_a(**module));
}

TEST(OpenModule, TheMappedFileAndNotTheOneAtItsPathNow) {
    const PluginFile plugin;
    Loaded loaded(plugin.path);
    plugin.replace(PLUGIN_B);
    // The map read before says nothing of a deletion, the one read now does.
    for (int i = 0; i < 2; ++i) {
        const auto module = loaded.open();
        ASSERT_TRUE(module) << dwunw_status_string(module.error().status);
        EXPECT_TRUE(is_plugin_a(**module));
        loaded.read_maps();
        EXPECT_TRUE(loaded.mapping().deleted);
    }
}

TEST(OpenModule, AMappingReplacedAfterTheMapWasRead) {
    const size_t page = testing::page_size();
    ModuleStore store;
    const ProcDir self = testing::take(ProcDir::open(::getpid()));
    const auto target = testing::take(LiveTarget::open(self));
    const UniqueFd a(::open(PLUGIN_A, O_RDONLY | O_CLOEXEC));
    const UniqueFd b(::open(PLUGIN_B, O_RDONLY | O_CLOEXEC));
    void *address = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, a.get(), 0);
    const Maps maps = testing::take(Maps::read(target->maps_fd()));
    const Mapping &mapping = *maps.find(RunAddr(reinterpret_cast<uint64_t>(address)));
    ASSERT_EQ(::mmap(address, page, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, b.get(), 0), address);
    const auto module = open_module(store, maps, mapping, target.get());
    // The file itself is still there by its path; the wrong one is what it must not be.
    if (module)
        EXPECT_TRUE(is_plugin_a(**module));
    else
        EXPECT_EQ(module.error().status, DWUNW_ERR_MODULE_CHANGED);
    ::munmap(address, page);
}

TEST(OpenModule, WithoutRightsByPath) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const PluginFile plugin;
    Loaded loaded(plugin.path, [] {
        EXPECT_EQ(::setresgid(65534, 65534, 65534), 0);
        EXPECT_EQ(::setresuid(65534, 65534, 65534), 0);
        ::prctl(PR_SET_DUMPABLE, 1); // one's own processes can be looked into
    });
    const Outcome outcome = as_nobody([&] { return loaded.open(); });
    EXPECT_EQ(outcome.status, DWUNW_OK);
    EXPECT_TRUE(outcome.from_file);
    EXPECT_TRUE(outcome.is_a);
}

TEST(OpenModule, WithoutRightsAReplacedFileComesFromMemory) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const PluginFile plugin;
    Loaded loaded(plugin.path, [] {
        EXPECT_EQ(::setresgid(65534, 65534, 65534), 0);
        EXPECT_EQ(::setresuid(65534, 65534, 65534), 0);
        ::prctl(PR_SET_DUMPABLE, 1);
    });
    plugin.replace(PLUGIN_B); // with the same build-id
    const Outcome stale_map = as_nobody([&] { return loaded.open(); });
    EXPECT_EQ(stale_map.status, DWUNW_OK);
    EXPECT_FALSE(stale_map.from_file);
    EXPECT_TRUE(stale_map.is_a);
    loaded.read_maps();
    ASSERT_TRUE(loaded.mapping().deleted);
    const Outcome outcome = as_nobody([&] { return loaded.open(); });
    EXPECT_EQ(outcome.status, DWUNW_OK);
    EXPECT_FALSE(outcome.from_file);
    EXPECT_TRUE(outcome.is_a);
}

TEST(OpenModule, OtherDeviceNumbersAreSettledByTheFirstPageInMemory) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const PluginFile plugin;
    Loaded loaded(plugin.path, [] {
        EXPECT_EQ(::setresgid(65534, 65534, 65534), 0);
        EXPECT_EQ(::setresuid(65534, 65534, 65534), 0);
        ::prctl(PR_SET_DUMPABLE, 1);
    });
    // As a map of btrfs or overlayfs is: device and inode are not stat's.
    const std::string text = [&] {
        std::string out;
        std::ifstream file("/proc/" + std::to_string(loaded.pid()) + "/maps");
        const std::string inode = " " + std::to_string(loaded.mapping().inode) + " ";
        for (std::string line; std::getline(file, line); out += line + "\n")
            if (const size_t at = line.find(inode); at != std::string::npos)
                line.replace(at, inode.size(), " 999999999 ");
        return out;
    }();
    loaded.maps = testing::take(Maps::parse({text.begin(), text.end()}, Maps::Order::kStrict));
    ASSERT_EQ(loaded.mapping().inode, 999999999u);
    const Outcome same = as_nobody([&] { return loaded.open(); });
    EXPECT_EQ(same.status, DWUNW_OK);
    EXPECT_TRUE(same.from_file);
    EXPECT_TRUE(same.is_a);

    plugin.replace(PLUGIN_B);
    const Outcome other = as_nobody([&] { return loaded.open(); });
    // Copying it from memory fails, too: such a map does not say what is mapped.
    EXPECT_EQ(other.status, DWUNW_ERR_MODULE_CHANGED);
}

TEST(OpenModule, AFileOfAnotherMountNamespace) {
    if (const auto why = testing::rights_missing(); !why.empty())
        GTEST_SKIP() << why;
    const TemporaryFolder folder;
    const std::string path = folder / "mounted/plugin.so";
    std::filesystem::create_directory(folder / "mounted");
    testing::write_file(path, "what our namespace has there");
    Loaded loaded(path, [&] {
        if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("none", (folder / "mounted").c_str(), "tmpfs", 0, nullptr) != 0)
            ::_exit(1);
        std::filesystem::copy_file(PLUGIN_A, path);
    });
    const auto by_mapping = loaded.open();
    ASSERT_TRUE(by_mapping) << dwunw_status_string(by_mapping.error().status);
    EXPECT_TRUE(is_plugin_a(**by_mapping));

    // A map whose ranges are not the process's leaves the path in its root.
    Mapping moved = loaded.mapping();
    moved.end = moved.end + testing::page_size();
    const auto by_root = open_module(loaded.store, loaded.maps, moved, loaded.target.get());
    ASSERT_TRUE(by_root) << dwunw_status_string(by_root.error().status);
    EXPECT_EQ((*by_root)->file, (*by_mapping)->file);
}

TEST(OpenModule, OfAMapWithoutAProcess) {
    const PluginFile plugin;
    const auto identity = LocatedFile::locate(AT_FDCWD, plugin.path.c_str())->identity();
    ModuleStore store;
    auto open = [&](const std::string &path, uint64_t device, uint64_t inode) {
        Mapping mapping;
        mapping.end = RunAddr(0x1000);
        mapping.kind = Mapping::Kind::kFile;
        mapping.executable = mapping.readable = true;
        mapping.device_major = major(device);
        mapping.device_minor = minor(device);
        mapping.inode = inode;
        mapping.path = path;
        const auto module = open_module(store, Maps(), mapping, nullptr);
        return module ? DWUNW_OK : module.error().status;
    };
    EXPECT_EQ(open(plugin.path, identity.device, identity.inode), DWUNW_OK);
    EXPECT_EQ(open(plugin.path, identity.device + 1, identity.inode), DWUNW_OK); // btrfs
    EXPECT_EQ(open(plugin.path, 0, 0), DWUNW_OK);                                // made by hand
    EXPECT_EQ(open(plugin.path, identity.device, identity.inode + 1), DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(open(plugin.path + ".not", identity.device, identity.inode), DWUNW_ERR_NO_FILE);
    EXPECT_EQ(open("plugin.so", 0, 0), DWUNW_ERR_NO_FILE);
    // A FIFO where a library should be must not block.
    ASSERT_EQ(::mkfifo((plugin.folder / "fifo").c_str(), 0600), 0);
    EXPECT_EQ(open(plugin.folder / "fifo", 0, 0), DWUNW_ERR_NOT_ELF);
}

TEST(OpenModule, TheVdsoIsAModule) {
    const ProcDir self = testing::take(ProcDir::open(::getpid()));
    const auto target = testing::take(LiveTarget::open(self));
    const Maps maps = testing::take(Maps::read(target->maps_fd()));
    const Mapping &vdso = *maps.find(RunAddr(::getauxval(AT_SYSINFO_EHDR)));
    ModuleStore store;
    const auto module = open_module(store, maps, vdso, target.get());
    ASSERT_TRUE(module);
    EXPECT_TRUE((*module)->file->cfi());
    const auto without = open_module(store, maps, vdso, nullptr);
    ASSERT_FALSE(without);
    EXPECT_EQ(without.error().status, DWUNW_ERR_NO_FILE);
}

TEST(OpenModule, AMemfdIsAModule) {
    const UniqueFd file(::memfd_create("library", MFD_CLOEXEC));
    const std::string bytes = testing::read_file(PLUGIN_A);
    ASSERT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    Loaded loaded("/proc/self/fd/" + std::to_string(file.get()));
    EXPECT_TRUE(loaded.mapping().is_memory_file());
    const auto module = loaded.open();
    ASSERT_TRUE(module) << dwunw_status_string(module.error().status);
    EXPECT_TRUE(is_plugin_a(**module));
}

// Each of a file's mappings had all of them read, where its file cannot be opened.
TEST(OpenedFiles, AFileIsOpenedOnce) {
    const std::string text = "1000-2000 r-xp 00000000 00:01 12 /a\n"
                             "2000-3000 r-xp 00000000 00:01 13 /b\n"
                             "3000-4000 r-xp 00000000 00:01 12 /a\n";
    const Maps maps = testing::take(Maps::parse({text.begin(), text.end()}, Maps::Order::kStrict));
    OpenedFiles files;
    int calls = 0;
    const auto get = [&](size_t index, dwunw_status status) {
        const auto module = files.get(maps, maps.mappings()[index], [&]() -> Result<const dwunw_module *> {
            ++calls;
            return Error{status};
        });
        return module.error().status;
    };
    // For want of descriptors or memory it is tried again.
    EXPECT_EQ(get(0, DWUNW_ERR_TOO_MANY_FILES), DWUNW_ERR_TOO_MANY_FILES);
    EXPECT_EQ(get(0, DWUNW_ERR_LIMIT), DWUNW_ERR_LIMIT);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(get(2, DWUNW_ERR_NO_FILE), DWUNW_ERR_LIMIT);
    EXPECT_EQ(calls, 2);
    EXPECT_EQ(get(1, DWUNW_ERR_NO_FILE), DWUNW_ERR_NO_FILE);
    EXPECT_EQ(calls, 3);
}

} // namespace
} // namespace dwunw::process
