// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Register sets from pt_regs, a signal handler's context, getcontext and perf samples: in the order of the systems' own
// headers, and with what the kernel really hands over for a function whose registers are known.
#include <dwunw/process.h>
#include <dwunw/unwind.h>

#include "base/unique_fd.h"

#include <gtest/gtest.h>

#include <asm/perf_regs.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <string_view>
#include <vector>

extern char **environ;

// touch_with_known_registers(page): reads a byte of `page` (in r15) while every other register holds kKnown plus its
// DWARF number, and leaves SP then in known_sp.
extern "C" {
void touch_with_known_registers(void *page);
extern const char known_instruction[]; // the one that reads
extern uint64_t known_sp;
}
asm(R"(
    .text
    .globl touch_with_known_registers, known_instruction
    .type touch_with_known_registers, @function
touch_with_known_registers:
    .cfi_startproc
    pushq %rbx
    .cfi_def_cfa_offset 16
    .cfi_offset %rbx, -16
    pushq %rbp
    .cfi_def_cfa_offset 24
    .cfi_offset %rbp, -24
    pushq %r12
    .cfi_def_cfa_offset 32
    .cfi_offset %r12, -32
    pushq %r13
    .cfi_def_cfa_offset 40
    .cfi_offset %r13, -40
    pushq %r14
    .cfi_def_cfa_offset 48
    .cfi_offset %r14, -48
    pushq %r15
    .cfi_def_cfa_offset 56
    .cfi_offset %r15, -56
    movq %rdi, %r15
    movq %rsp, known_sp(%rip)
    movabsq $0x1122334455667700, %rax
    leaq 1(%rax), %rdx
    leaq 2(%rax), %rcx
    leaq 3(%rax), %rbx
    leaq 4(%rax), %rsi
    leaq 5(%rax), %rdi
    leaq 6(%rax), %rbp
    leaq 8(%rax), %r8
    leaq 9(%rax), %r9
    leaq 10(%rax), %r10
    leaq 11(%rax), %r11
    leaq 12(%rax), %r12
    leaq 13(%rax), %r13
    leaq 14(%rax), %r14
known_instruction:
    testb $0, (%r15)
    popq %r15
    .cfi_def_cfa_offset 48
    popq %r14
    .cfi_def_cfa_offset 40
    popq %r13
    .cfi_def_cfa_offset 32
    popq %r12
    .cfi_def_cfa_offset 24
    popq %rbp
    .cfi_def_cfa_offset 16
    popq %rbx
    .cfi_def_cfa_offset 8
    ret
    .cfi_endproc
    .size touch_with_known_registers, . - touch_with_known_registers
    .bss
    .balign 8
    .globl known_sp
known_sp:
    .zero 8
    .text
)");

namespace {

constexpr uint64_t kKnown = 0x1122334455667700;
constexpr uint64_t kAllValid = 0x1ffff; // 17 registers
enum : size_t { kRbx = 3, kRbp = 6, kRsp = 7, kR12 = 12, kR15 = 15, kRip = 16 };

constexpr uint64_t bit(size_t reg) { return uint64_t{1} << reg; }
constexpr uint64_t kKeptByCalls = bit(kRbx) | bit(kRbp) | bit(kRsp) | 0xf000 | bit(kRip);

// A page that is not there yet.
class Page {
  public:
    explicit Page(int protection) : at_(::mmap(nullptr, kSize, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
    ~Page() { ::munmap(at_, kSize); }
    Page(const Page &) = delete;
    Page &operator=(const Page &) = delete;
    void *at() const { return at_; }
    void make_readable() const { ::mprotect(at_, kSize, PROT_READ); }

  private:
    static constexpr size_t kSize = 4096;
    void *at_;
};

// Every register as touch_with_known_registers(page) had it.
void expect_known(const dwunw_regset &regs, const Page &page) {
    EXPECT_EQ(regs.size, sizeof(regs));
    EXPECT_EQ(regs.arch, uint32_t{DWUNW_ARCH_X86_64});
    EXPECT_EQ(regs.valid, kAllValid);
    for (size_t reg = 0; reg < kR15; ++reg)
        EXPECT_EQ(regs.regs[reg], reg == kRsp ? known_sp : kKnown + reg) << reg;
    EXPECT_EQ(regs.regs[kR15], reinterpret_cast<uint64_t>(page.at()));
    EXPECT_EQ(regs.regs[kRip], reinterpret_cast<uint64_t>(known_instruction));
    for (size_t reg = kRip + 1; reg < DWUNW_REGSET_MAX; ++reg)
        EXPECT_EQ(regs.regs[reg], 0u) << reg;
}

// The pcs of a stack of this process, from `slice`, which was copied at `address`. Empty where the walk is not
// complete.
std::vector<uint64_t> walk(const dwunw_regset &regs, uint64_t address, const std::vector<uint8_t> &slice) {
    dwunw_context *context = nullptr;
    dwunw_process *process = nullptr;
    EXPECT_EQ(dwunw_init(nullptr, &context), DWUNW_OK);
    dwunw_process_options options{};
    options.size = sizeof(options);
    options.pid = ::getpid();
    EXPECT_EQ(dwunw_process_open(context, &options, &process), DWUNW_OK);
    std::array<dwunw_frame, 64> frames;
    dwunw_unwind_request request{};
    request.size = sizeof(request);
    request.process = process;
    request.regs = &regs;
    request.stack_addr = address;
    request.stack = slice.data();
    request.stack_size = slice.size();
    request.frames = frames.data();
    request.max_frames = frames.size();
    size_t count = 0;
    EXPECT_EQ(dwunw_capture(context, &request, &count), DWUNW_OK);
    std::vector<uint64_t> pcs;
    for (size_t i = 0; i < count; ++i)
        pcs.push_back(frames.at(i).pc);
    dwunw_process_close(process);
    dwunw_shutdown(context);
    return pcs;
}

// Copies this thread's stack from the red zone below `sp` up to the environment's pointers, which lie above main's
// frame, as far as `out` has room. Returns the bytes copied. Word by word, past what AddressSanitizer puts between
// variables.
[[gnu::no_sanitize_address]] size_t copy_stack(uint64_t sp, std::vector<uint8_t> &out) {
    const uint64_t from = sp - DWUNW_RED_ZONE;
    const size_t words = std::min<size_t>(out.size(), reinterpret_cast<uint64_t>(environ) - from) / 8;
    auto *to = reinterpret_cast<uint64_t *>(out.data());
    for (size_t i = 0; i < words; ++i)
        to[i] = reinterpret_cast<const volatile uint64_t *>(from)[i];
    return words * 8;
}

TEST(Regset, PtRegsComeInTheKernelsOrder) {
    // r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss
    uint64_t pt_regs[DWUNW_X86_64_PT_REGS];
    std::iota(std::begin(pt_regs), std::end(pt_regs), 100);
    dwunw_regset regs;
    dwunw_regset_from_x86_64_pt_regs(&regs, pt_regs);
    EXPECT_EQ(regs.size, sizeof(regs));
    EXPECT_EQ(regs.arch, uint32_t{DWUNW_ARCH_X86_64});
    EXPECT_EQ(regs.valid, kAllValid);
    // rax rdx rcx rbx rsi rdi rbp rsp r8…r15 rip
    const uint64_t expected[] = {110, 112, 111, 105, 113, 114, 104, 119, 109, 108, 107, 106, 103, 102, 101, 100, 116};
    for (size_t i = 0; i < std::size(expected); ++i)
        EXPECT_EQ(regs.regs[i], expected[i]) << i;
}

// The C library's numbers for registers, by DWARF number.
constexpr std::array<int, 17> kGregs = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                                        REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};

TEST(Regset, SignalContextsComeInTheCLibrarysOrder) {
    ucontext_t context{};
    for (size_t reg = 0; reg < kGregs.size(); ++reg)
        context.uc_mcontext.gregs[kGregs.at(reg)] = static_cast<greg_t>(100 + reg);
    dwunw_regset regs;
    std::memset(&regs, 0xff, sizeof(regs)); // the caller need not set anything
    dwunw_regset_from_x86_64_signal_context(&regs, &context);
    EXPECT_EQ(regs.size, sizeof(regs));
    EXPECT_EQ(regs.arch, uint32_t{DWUNW_ARCH_X86_64});
    EXPECT_EQ(regs.valid, kAllValid);
    for (size_t reg = 0; reg < DWUNW_REGSET_MAX; ++reg)
        EXPECT_EQ(regs.regs[reg], reg < kGregs.size() ? 100 + reg : 0) << reg;

    dwunw_regset_from_x86_64_getcontext(&regs, &context);
    EXPECT_EQ(regs.valid, kKeptByCalls);
    for (size_t reg = 0; reg < DWUNW_REGSET_MAX; ++reg)
        EXPECT_EQ(regs.regs[reg], (kKeptByCalls & bit(reg)) != 0 ? 100 + reg : 0) << reg;
}

struct Caught {
    dwunw_regset regs;
    std::vector<uint8_t> slice; // with room for the stack before the signal comes
    size_t length = 0;
    const Page *page = nullptr;
};
Caught *caught = nullptr;

void on_fault(int, siginfo_t *, void *ucontext) {
    dwunw_regset_from_x86_64_signal_context(&caught->regs, ucontext);
    caught->length = copy_stack(caught->regs.regs[kRsp], caught->slice);
    caught->page->make_readable();
}

[[gnu::noinline]] uint64_t touch(const Page &page) {
    touch_with_known_registers(page.at());
    return reinterpret_cast<uint64_t>(__builtin_return_address(0));
}

// A real signal's context: every register, and a walk from it.
TEST(Regset, ASignalHandlersContext) {
    const Page page(PROT_NONE);
    Caught here{};
    here.slice.resize(1 << 20);
    here.page = &page;
    caught = &here;
    struct sigaction action {};
    struct sigaction before {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    ASSERT_EQ(::sigaction(SIGSEGV, &action, &before), 0);
    const uint64_t caller = touch(page);
    ASSERT_EQ(::sigaction(SIGSEGV, &before, nullptr), 0);
    expect_known(here.regs, page);

    here.slice.resize(here.length);
    const auto pcs = walk(here.regs, here.regs.regs[kRsp] - DWUNW_RED_ZONE, here.slice);
    ASSERT_GT(pcs.size(), 3u);
    EXPECT_EQ(pcs[0], reinterpret_cast<uint64_t>(known_instruction));
    EXPECT_EQ(pcs[2], caller);
}

// Registers that the context holds, but that have other values by now, are not valid.
TEST(Regset, AContextOfGetcontext) {
    ucontext_t context{};
    ASSERT_EQ(::getcontext(&context), 0);
    dwunw_regset regs;
    dwunw_regset_from_x86_64_getcontext(&regs, &context);
    std::vector<uint8_t> slice(1 << 20);
    slice.resize(copy_stack(regs.regs[kRsp], slice));
    EXPECT_EQ(regs.valid, kKeptByCalls);
    EXPECT_EQ(regs.regs[kRip], static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RIP]));
    EXPECT_EQ(regs.regs[kRbx], static_cast<uint64_t>(context.uc_mcontext.gregs[REG_RBX]));
    EXPECT_EQ(regs.regs[kR12], static_cast<uint64_t>(context.uc_mcontext.gregs[REG_R12]));
    EXPECT_EQ(regs.regs[0], 0u);
    const auto pcs = walk(regs, regs.regs[kRsp] - DWUNW_RED_ZONE, slice);
    ASSERT_GT(pcs.size(), 3u);
    EXPECT_EQ(pcs[0], regs.regs[kRip]);
    EXPECT_EQ(pcs[1], reinterpret_cast<uint64_t>(__builtin_return_address(0)));
}

// perf's numbers for registers, by DWARF number.
constexpr std::array<int, 17> kPerfNumbers = {
    PERF_REG_X86_AX,  PERF_REG_X86_DX,  PERF_REG_X86_CX,  PERF_REG_X86_BX,  PERF_REG_X86_SI,  PERF_REG_X86_DI,
    PERF_REG_X86_BP,  PERF_REG_X86_SP,  PERF_REG_X86_R8,  PERF_REG_X86_R9,  PERF_REG_X86_R10, PERF_REG_X86_R11,
    PERF_REG_X86_R12, PERF_REG_X86_R13, PERF_REG_X86_R14, PERF_REG_X86_R15, PERF_REG_X86_IP};

uint64_t perf_mask() {
    uint64_t mask = 0;
    for (const int number : kPerfNumbers)
        mask |= bit(static_cast<size_t>(number));
    return mask;
}

TEST(Regset, PerfSamplesComeInTheKernelsOrder) {
    // Each register alone, and all of them with the segments, the flags and the vector registers among them.
    for (size_t reg = 0; reg < kPerfNumbers.size(); ++reg) {
        const uint64_t value = 7;
        dwunw_regset regs;
        std::memset(&regs, 0xff, sizeof(regs));
        dwunw_regset_from_x86_64_perf_regs(&regs, bit(static_cast<size_t>(kPerfNumbers.at(reg))), &value);
        EXPECT_EQ(regs.size, sizeof(regs));
        EXPECT_EQ(regs.arch, uint32_t{DWUNW_ARCH_X86_64});
        EXPECT_EQ(regs.valid, bit(reg));
        for (size_t other = 0; other < DWUNW_REGSET_MAX; ++other)
            EXPECT_EQ(regs.regs[other], other == reg ? 7u : 0u) << reg << " " << other;
    }
    std::array<uint64_t, 64> values;
    std::iota(values.begin(), values.end(), 0); // each is its perf number
    dwunw_regset regs;
    dwunw_regset_from_x86_64_perf_regs(&regs, ~uint64_t{0}, values.data());
    EXPECT_EQ(regs.valid, kAllValid);
    for (size_t reg = 0; reg < kPerfNumbers.size(); ++reg)
        EXPECT_EQ(regs.regs[reg], static_cast<uint64_t>(kPerfNumbers.at(reg))) << reg;
    dwunw_regset_from_x86_64_perf_regs(&regs, 0, nullptr);
    EXPECT_EQ(regs.valid, 0u);
}

// Samples of this thread's page faults: one for each page that touch_with_known_registers is the first to read.
class FaultSamples {
  public:
    explicit FaultSamples(uint64_t mask) : registers_(static_cast<size_t>(__builtin_popcountll(mask))) {
        perf_event_attr attributes{};
        attributes.size = sizeof(attributes);
        attributes.type = PERF_TYPE_SOFTWARE;
        attributes.config = PERF_COUNT_SW_PAGE_FAULTS;
        attributes.sample_period = 1;
        attributes.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER;
        attributes.sample_regs_user = mask;
        attributes.sample_stack_user = kStackBytes;
        attributes.exclude_kernel = 1;
        fd_ = dwunw::UniqueFd(
            static_cast<int>(::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)));
        if (fd_.valid())
            ring_ = ::mmap(nullptr, kRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    }
    ~FaultSamples() {
        if (open())
            ::munmap(ring_, kRingBytes);
    }
    FaultSamples(const FaultSamples &) = delete;
    FaultSamples &operator=(const FaultSamples &) = delete;
    bool open() const { return ring_ != MAP_FAILED; }

    struct Sample {
        uint64_t abi = 0;
        std::vector<uint64_t> regs;
        std::vector<uint8_t> stack; // from SP on
    };
    // Those whose pc is `ip`.
    std::vector<Sample> at(uint64_t ip) const {
        const auto *page = static_cast<const perf_event_mmap_page *>(ring_);
        const auto *data = static_cast<const uint8_t *>(ring_) + page->data_offset;
        const uint64_t head = std::atomic_ref(const_cast<__u64 &>(page->data_head)).load(std::memory_order_acquire);
        EXPECT_LE(head, page->data_size) << "nothing is overwritten";
        std::vector<Sample> samples;
        for (uint64_t tail = 0; tail < head;) {
            perf_event_header header;
            std::memcpy(&header, data + tail, sizeof(header));
            const uint8_t *cursor = data + tail + sizeof(header);
            tail += header.size;
            const auto word = [&] {
                uint64_t value;
                std::memcpy(&value, cursor, sizeof(value));
                cursor += sizeof(value);
                return value;
            };
            if (header.type != PERF_RECORD_SAMPLE || word() != ip)
                continue;
            Sample sample;
            sample.abi = word();
            for (size_t i = 0; sample.abi != PERF_SAMPLE_REGS_ABI_NONE && i < registers_; ++i)
                sample.regs.push_back(word());
            const uint64_t size = word();
            sample.stack.assign(cursor, cursor + size);
            cursor += size;
            if (size != 0)
                sample.stack.resize(word()); // what of it is the stack's
            samples.push_back(std::move(sample));
        }
        return samples;
    }

  private:
    static constexpr uint32_t kStackBytes = 32768;
    static constexpr size_t kRingBytes = (1 + 256) * 4096;
    size_t registers_;
    dwunw::UniqueFd fd_;
    void *ring_ = MAP_FAILED;
};

// A real sample: every register, and a walk from it.
TEST(Regset, APerfSample) {
    const uint64_t mask = perf_mask() | bit(PERF_REG_X86_FLAGS) | bit(PERF_REG_X86_CS) | bit(PERF_REG_X86_SS);
    const Page page(PROT_READ | PROT_WRITE);
    const FaultSamples events(mask);
    if (!events.open()) {
        const char *required = std::getenv("DWUNW_REQUIRE_BPF");
        ASSERT_TRUE(required == nullptr || std::string_view(required) != "1") << "perf_event_open is refused";
        GTEST_SKIP() << "skipped: perf_event_open is refused";
    }
    const uint64_t caller = touch(page);
    const auto samples = events.at(reinterpret_cast<uint64_t>(known_instruction));
    ASSERT_EQ(samples.size(), 1u);
    ASSERT_EQ(samples[0].abi, uint64_t{PERF_SAMPLE_REGS_ABI_64});
    dwunw_regset regs;
    dwunw_regset_from_x86_64_perf_regs(&regs, mask, samples[0].regs.data());
    expect_known(regs, page);

    const auto pcs = walk(regs, regs.regs[kRsp], samples[0].stack);
    ASSERT_GT(pcs.size(), 3u);
    EXPECT_EQ(pcs[0], reinterpret_cast<uint64_t>(known_instruction));
    EXPECT_EQ(pcs[2], caller);
}

} // namespace
