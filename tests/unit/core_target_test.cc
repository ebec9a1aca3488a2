// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#include "core/target.h"

#include "process/process.h"
#include "process_testing.h"
#include "support/core_builder.h"
#include "support/watched_source.h"

namespace dwunw::core {
namespace {

using namespace process; // a core is a process that has ended

using testing::CoreBuilder;
using testing::OwnedSource;
using testing::TemporaryFolder;

CoreTarget target_of(CoreBuilder builder, std::string exe = "", std::string sysroot = "") {
    builder.add_thread(1);
    auto core = testing::take(CoreFile::parse(std::make_shared<const OwnedSource>(builder.build())));
    return {std::move(core), std::move(exe), std::move(sysroot)};
}

std::vector<uint8_t> bytes_of_file(const std::string &path) {
    const std::string text = testing::read_file(path);
    return {text.begin(), text.end()};
}

struct Line {
    uint64_t start, end;
    std::string mode;
    Mapping::Kind kind;
    std::string path;
    bool operator==(const Line &) const = default;
};

std::vector<Line> lines_of(const CoreTarget &target) {
    std::vector<Line> lines;
    const Maps maps = target.maps();
    for (const Mapping &m : maps.mappings())
        lines.push_back({m.start.value, m.end.value,
                         std::string(m.readable ? "r" : "-") + (m.writable ? "w" : "-") + (m.executable ? "x" : "-"),
                         m.kind, std::string(m.path)});
    return lines;
}

TEST(CoreTarget, TheMapIsThatOfTheProcess) {
    CoreBuilder builder;
    builder.add_files({{0x10000, 0x12000, 0, "/a"}, {0x12000, 0x14000, 2, "/a"}, {0x40000, 0x41000, 0, "/memfd:x"}});
    builder.add_auxiliary({{AT_SYSINFO_EHDR, 0x60000}});
    builder.add({0x10000, 0x2000, PF_R, {}});
    builder.add({0x12000, 0x1000, PF_R | PF_X, {}});
    builder.add({0x13000, 0x2000, PF_R | PF_W, {}}); // beyond the file's mapping
    builder.add({0x50000, 0x1000, PF_R | PF_W | PF_X, {1}});
    builder.add({0x60000, 0x2000, PF_R | PF_X, {1}});
    builder.add({0x70000, 0x1000, PF_X, {}});
    builder.add({0xffffffffff600000, 0x1000, PF_X, {}});
    using enum Mapping::Kind;
    EXPECT_EQ(lines_of(target_of(builder)), (std::vector<Line>{
                                                {0x10000, 0x12000, "r--", kFile, "/a"},
                                                {0x12000, 0x13000, "r-x", kFile, "/a"},
                                                {0x13000, 0x14000, "rw-", kFile, "/a"},
                                                {0x14000, 0x15000, "rw-", kAnonymous, ""},
                                                {0x40000, 0x41000, "r-x", kFile, "/memfd:x"}, // nothing says
                                                {0x50000, 0x51000, "rwx", kAnonymous, ""},
                                                {0x60000, 0x62000, "r-x", kVdso, "[vdso]"},
                                                {0x70000, 0x71000, "--x", kUprobeTrampoline, "[uprobes]"},
                                                {0xffffffffff600000, 0xffffffffff601000, "--x", kAnonymous, ""},
                                            }));
    const CoreTarget target = target_of(builder);
    const Maps maps = target.maps();
    EXPECT_EQ(maps.find(RunAddr(0x13800))->offset, FileOffset(0x3000));
}

// A plugin as it would be mapped at 0x100000, by its own program headers.
struct Mapped {
    explicit Mapped(const std::string &file) : bytes(bytes_of_file(file)) {
        const OwnedSource source(bytes);
        const auto image = testing::take(elf::Image::parse(source));
        for (const elf::Segment &segment : image.load_segments()) {
            const uint64_t start = segment.address.value & ~uint64_t{4095};
            const uint64_t offset = segment.offset.value & ~uint64_t{4095};
            const uint64_t end = (segment.address.value + segment.file_size + 4095) & ~uint64_t{4095};
            parts.push_back({kBase + start, kBase + end, offset / 4096, ""});
            executable.push_back(segment.executable);
            if (segment.executable)
                code = RunAddr(kBase + segment.address.value);
        }
    }
    // `name`: what NT_FILE says. `flags`: with PT_LOADs. `held`: how much of each mapping.
    // `moved`: the code is in memory without a file, with one byte of its own if `changed`.
    CoreBuilder core(const std::string &name, bool with_segments, uint64_t held_first, uint64_t held,
                     bool moved = false, bool changed = false) const {
        CoreBuilder builder;
        auto files = parts;
        for (size_t i = 0; i < files.size(); ++i) {
            files[i].path = name;
            const uint64_t size = files[i].end - files[i].start;
            const uint64_t at = files[i].page * 4096;
            std::vector<uint8_t> content(std::min(size, i == 0 ? held_first : held));
            if (at < bytes.size())
                std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(at),
                            std::min<uint64_t>(content.size(), bytes.size() - at), content.begin());
            if (changed && executable[i])
                content.at(code.value % 4096) ^= 1;
            const uint32_t flags = static_cast<uint32_t>(PF_R) | (executable[i] ? PF_X : 0);
            if (with_segments || !content.empty())
                builder.add({files[i].start, size, flags, content});
        }
        if (moved)
            files.erase(files.begin() + (std::ranges::find(executable, true) - executable.begin()));
        builder.add_files(files);
        return builder;
    }
    static constexpr uint64_t kBase = 0x100000;
    std::vector<uint8_t> bytes;
    std::vector<CoreBuilder::File> parts;
    std::vector<bool> executable;
    RunAddr code;
};

struct Opened {
    dwunw_status status;
    bool from_file = false;
};
Opened open_code(const CoreTarget &target, RunAddr code) {
    ModuleStore store;
    const Maps maps = target.maps();
    const auto module = target.open_module(store, maps, *maps.find(code), nullptr);
    if (!module)
        return {module.error().status};
    EXPECT_TRUE((*module)->file->cfi().ok());
    return {DWUNW_OK, (*module)->file->fd() >= 0};
}

TEST(CoreTarget, PermissionsFromTheProgramHeaders) {
    const Mapped plugin(PLUGIN_A);
    const CoreTarget target = target_of(plugin.core(PLUGIN_A, false, 4096, 0));
    const Maps maps = target.maps();
    for (size_t i = 0; i < plugin.parts.size(); ++i)
        EXPECT_EQ(maps.find(RunAddr(plugin.parts[i].start))->executable, plugin.executable[i]) << i;
}

TEST(CoreTarget, AModulesFile) {
    const Mapped plugin(PLUGIN_A);
    EXPECT_EQ(open_code(target_of(plugin.core(PLUGIN_A, true, 4096, 0)), plugin.code).status, DWUNW_OK);
    // Without the page that says which file it is, any file may be another one.
    EXPECT_EQ(open_code(target_of(plugin.core(PLUGIN_A, true, 0, 0)), plugin.code).status, DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(open_code(target_of(plugin.core("/nonexistent", true, 4096, 0)), plugin.code).status, DWUNW_ERR_NO_FILE);
    EXPECT_EQ(open_code(target_of(plugin.core("not/absolute", true, 4096, 0)), plugin.code).status, DWUNW_ERR_NO_FILE);
    // Another file of that name: its build-id is the same, its segments are not.
    EXPECT_EQ(open_code(target_of(plugin.core(PLUGIN_MOVED, true, 4096, 0)), plugin.code).status,
              DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(open_code(target_of(plugin.core("/bin/true", true, 4096, 0)), plugin.code).status,
              DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(open_code(target_of(plugin.core("/etc/passwd", true, 4096, 0)), plugin.code).status,
              DWUNW_ERR_MODULE_CHANGED);
}

TEST(CoreTarget, WithoutABuildIdTheHeadersDecide) {
    const TemporaryFolder folder;
    Mapped plugin(PLUGIN_A);
    constexpr std::array<uint8_t, 8> kId = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    // The note's type becomes another one.
    const auto at = std::search(plugin.bytes.begin(), plugin.bytes.end(), kId.begin(), kId.end());
    ASSERT_NE(at, plugin.bytes.end());
    *(at - 8) = 77;
    const std::string path = folder / "plugin.so";
    testing::write_file(path, {plugin.bytes.begin(), plugin.bytes.end()});
    const CoreTarget target = target_of(plugin.core(path, true, 4096, 0));
    EXPECT_EQ(open_code(target, plugin.code).status, DWUNW_OK);
    plugin.bytes[0x300] ^= 1;
    testing::write_file(path, {plugin.bytes.begin(), plugin.bytes.end()});
    EXPECT_EQ(open_code(target, plugin.code).status, DWUNW_ERR_MODULE_CHANGED);
}

TEST(CoreTarget, SysrootExeAndDeletedFiles) {
    const TemporaryFolder folder;
    const Mapped plugin(PLUGIN_A);
    std::filesystem::create_directories(folder / "root/lib");
    std::filesystem::copy_file(PLUGIN_A, folder / "root/lib/plugin.so");
    auto core = plugin.core("/lib/plugin.so", true, 4096, 0);
    EXPECT_EQ(open_code(target_of(core), plugin.code).status, DWUNW_ERR_NO_FILE);
    EXPECT_EQ(open_code(target_of(core, "", folder / "root"), plugin.code).status, DWUNW_OK);
    EXPECT_EQ(open_code(target_of(core, "", folder / "other"), plugin.code).status, DWUNW_ERR_NO_FILE);
    // The program is what AT_ENTRY points into.
    core.add_auxiliary({{AT_ENTRY, plugin.code.value}});
    EXPECT_EQ(open_code(target_of(core, PLUGIN_A), plugin.code).status, DWUNW_OK);
    EXPECT_EQ(open_code(target_of(core, "/bin/true"), plugin.code).status, DWUNW_ERR_MODULE_CHANGED);
    EXPECT_EQ(open_code(target_of(core, "/nonexistent"), plugin.code).status, DWUNW_ERR_NO_FILE);
    // Put back where it was.
    core = plugin.core(std::string(PLUGIN_A) + " (deleted)", true, 4096, 0);
    EXPECT_EQ(open_code(target_of(core), plugin.code).status, DWUNW_OK);
}

TEST(CoreTarget, TheTextInTheCore) {
    const Mapped plugin(PLUGIN_A);
    constexpr uint64_t kAll = ~uint64_t{0};
    for (const char *name : {"/nonexistent", "/bin/true"}) {
        const Opened opened = open_code(target_of(plugin.core(name, true, kAll, kAll)), plugin.code);
        EXPECT_EQ(opened.status, DWUNW_OK) << name;
        EXPECT_FALSE(opened.from_file) << name;
    }
    EXPECT_TRUE(open_code(target_of(plugin.core(PLUGIN_A, true, kAll, kAll)), plugin.code).from_file);
    // All but one byte of each mapping is not all.
    EXPECT_EQ(open_code(target_of(plugin.core("/nonexistent", true, kAll, 4095)), plugin.code).status,
              DWUNW_ERR_NO_FILE);
}

// A program moves its code to memory without a file, to have it in large pages. A kernel's core holds such memory;
// where one does not, nothing says what it was.
TEST(CoreTarget, MovedCodeIsKnownOnlyByItsBytes) {
    const Mapped mapped(PLUGIN_A);
    constexpr uint64_t kAll = 1 << 20;
    const auto code_of = [&](uint64_t held, bool changed) {
        static ModuleStore store;
        const auto core =
            std::make_shared<const CoreTarget>(target_of(mapped.core(PLUGIN_A, true, 4096, held, true, changed)));
        return testing::take(Process::open(store, core, core->maps()))->find(mapped.code);
    };
    const auto found = code_of(kAll, false);
    ASSERT_EQ(found.kind, unwind::CodeKind::kModule);
    EXPECT_EQ(found.module->path, PLUGIN_A);
    EXPECT_EQ(found.bias.value, Mapped::kBase);
    EXPECT_NE(found.cfi, nullptr);
    EXPECT_EQ(code_of(kAll, true).kind, unwind::CodeKind::kAnonymous);
    EXPECT_EQ(code_of(16, false).kind, unwind::CodeKind::kAnonymous);
}

// A file that is no ELF image, of which only the code is mapped: its bytes are the core's, never the file's.
TEST(CoreTarget, CodeInAFileThatIsNotElf) {
    const TemporaryFolder folder;
    testing::write_file(folder / "image", std::string(8192, 'x'));
    const auto open = [&](size_t held) {
        static ModuleStore store;
        CoreBuilder builder;
        builder.add_files({{0x10000, 0x11000, 1, folder / "image"}});
        builder.add({0x10000, 0x1000, PF_R | PF_X, std::vector<uint8_t>(held, 0x90)});
        const auto target = std::make_shared<const CoreTarget>(target_of(builder));
        return testing::take(Process::open(store, target, target->maps()));
    };
    std::array<uint8_t, 4> code{};
    const auto process = open(0x1000);
    EXPECT_EQ(process->find(RunAddr(0x10010)).status, DWUNW_ERR_NOT_ELF);
    EXPECT_TRUE(process->read_code(RunAddr(0x10010), code));
    EXPECT_EQ(code, (std::array<uint8_t, 4>{0x90, 0x90, 0x90, 0x90}));
    const auto without = open(0);
    EXPECT_EQ(without->find(RunAddr(0x10010)).status, DWUNW_ERR_NOT_ELF);
    EXPECT_FALSE(without->read_code(RunAddr(0x10010), code));
}

// A core of 40,000 threads, each in a mapping of its own of one file, was a minute's work: for each of them all
// mappings were gone through, and the file was looked at again.
TEST(CoreTarget, AFileOfManyMappingsIsLookedAtOnce) {
    const auto reads_of = [](uint64_t count) {
        std::vector<CoreBuilder::File> files;
        CoreBuilder builder;
        std::vector<uint8_t> page = bytes_of_file(PLUGIN_A);
        page.resize(4096);
        for (uint64_t i = 0; i < count; ++i) {
            const uint64_t start = 0x10000 + i * 0x2000;
            files.push_back({start, start + 0x1000, 0, "/nonexistent/code"});
            builder.add({start, 0x1000, PF_R | PF_X, i == 0 ? page : std::vector<uint8_t>()});
        }
        builder.add_thread(1).add_files(files);
        const auto source = std::make_shared<const testing::WatchedSource>(builder.build());
        ModuleStore store;
        const auto target = std::make_shared<const CoreTarget>(testing::take(CoreFile::parse(source)), "", "");
        const auto process = testing::take(Process::open(store, target, target->maps()));
        const uint64_t before = source->reads;
        for (const CoreBuilder::File &file : files)
            EXPECT_EQ(process->find(RunAddr(file.start)).status, DWUNW_ERR_NO_FILE);
        return source->reads - before;
    };
    const uint64_t few = reads_of(100);
    EXPECT_GT(few, 0u);
    EXPECT_EQ(reads_of(400), few);
}

TEST(CoreTarget, FilesThatAreNotElf) {
    CoreBuilder builder;
    builder.add_files({{0x10000, 0x11000, 0, "/memfd:jit (deleted)"}});
    builder.add({0x10000, 0x1000, PF_R | PF_X, std::vector<uint8_t>(0x1000, 0x90)});
    EXPECT_EQ(open_code(target_of(builder), RunAddr(0x10010)).status, DWUNW_ERR_NOT_ELF);
}

} // namespace
} // namespace dwunw::core
