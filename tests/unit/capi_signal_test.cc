// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// dwunw_signal_capture in a handler that interrupts malloc and free 100,000 times. This program has its own malloc,
// free and locks: a call of one of them on a thread that is in the handler ends the program.
#include <dwunw/signal.h>

#include <gtest/gtest.h>

#include <dlfcn.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

extern char **environ;

namespace {

thread_local volatile sig_atomic_t in_handler = 0;
thread_local volatile sig_atomic_t in_allocator = 0;

void forbid_in_handler() {
    if (in_handler != 0) {
        constexpr char kText[] = "an allocation or a lock in a signal handler\n";
        (void)!::write(2, kText, sizeof(kText) - 1);
        std::abort();
    }
}

class Allocating {
  public:
    Allocating() {
        forbid_in_handler();
        in_allocator = in_allocator + 1;
    }
    ~Allocating() { in_allocator = in_allocator - 1; }
    Allocating(const Allocating &) = delete;
    Allocating &operator=(const Allocating &) = delete;
};

template <typename Function> Function *next(const char *name) {
    return reinterpret_cast<Function *>(::dlsym(RTLD_NEXT, name));
}

} // namespace

extern "C" {
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *memory);

void *malloc(size_t size) {
    const Allocating here;
    return __libc_malloc(size);
}
void *calloc(size_t count, size_t size) {
    const Allocating here;
    return __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
    const Allocating here;
    return __libc_realloc(memory, size);
}
void *memalign(size_t alignment, size_t size) {
    const Allocating here;
    return __libc_memalign(alignment, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
    const Allocating here;
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **out, size_t alignment, size_t size) {
    const Allocating here;
    *out = __libc_memalign(alignment, size);
    return *out != nullptr ? 0 : ENOMEM;
}
void free(void *memory) {
    const Allocating here;
    __libc_free(memory);
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
    forbid_in_handler();
    static auto *const real = next<int(pthread_mutex_t *)>("pthread_mutex_lock");
    return real(mutex);
}
int pthread_mutex_trylock(pthread_mutex_t *mutex) {
    forbid_in_handler();
    static auto *const real = next<int(pthread_mutex_t *)>("pthread_mutex_trylock");
    return real(mutex);
}
int pthread_rwlock_rdlock(pthread_rwlock_t *lock) {
    forbid_in_handler();
    static auto *const real = next<int(pthread_rwlock_t *)>("pthread_rwlock_rdlock");
    return real(lock);
}
int pthread_once(pthread_once_t *once, void (*function)()) {
    forbid_in_handler();
    static auto *const real = next<int(pthread_once_t *, void (*)())>("pthread_once");
    return real(once, function);
}
}

namespace {

constexpr size_t kInterruptions = 100'000; // within the allocator
constexpr size_t kKept = 200;              // of these, to be walked once more
constexpr size_t kMaxFrames = 64;

dwunw_context *context = nullptr;
dwunw_process *process = nullptr;
dwunw_signal_tables *tables = nullptr;

uint64_t stack_end() { return reinterpret_cast<uint64_t>(environ); } // its pointers lie above main's frame

dwunw_unwind_request request_for(const dwunw_regset &regs, uint64_t stack_addr, const void *stack, size_t stack_size,
                                 std::array<dwunw_frame, kMaxFrames> &frames) {
    dwunw_unwind_request request{};
    request.size = sizeof(request);
    request.process = process;
    request.regs = &regs;
    request.stack_addr = stack_addr;
    request.stack = stack;
    request.stack_size = stack_size;
    request.frames = frames.data();
    request.max_frames = frames.size();
    return request;
}

// One interruption, for dwunw_capture outside of the handler.
struct Kept {
    dwunw_status status;
    size_t count;
    dwunw_regset regs;
    std::array<dwunw_frame, kMaxFrames> frames;
    uint64_t stack_addr;
    size_t stack_size;
    std::array<uint8_t, 32768> stack;
};

struct Seen {
    size_t interruptions = 0;
    size_t in_allocator = 0;
    size_t complete = 0;
    size_t would_block = 0;
    size_t other = 0;
    size_t errno_changed = 0;
    size_t without_caller = 0; // complete, and no frame is the one that called the loop
    size_t kept_count = 0;
    std::vector<Kept> kept;
};
Seen *seen = nullptr;
uint64_t caller_of_loop = 0;
timer_t timer;

// The next interruption: some microseconds of this thread's work from now, each time others.
void arm() {
    itimerspec when{};
    when.it_value.tv_nsec = 3'000 + static_cast<long>(seen->interruptions * 7'919 % 20'000);
    ::timer_settime(timer, 0, &when, nullptr);
}

void on_signal(int /*signal*/, siginfo_t * /*info*/, void *ucontext) {
    const bool allocating = in_allocator != 0;
    in_handler = 1;
    errno = 4711;
    dwunw_regset regs;
    dwunw_regset_from_x86_64_signal_context(&regs, ucontext);
    const uint64_t stack_addr = regs.regs[7] - DWUNW_RED_ZONE;
    const size_t stack_size = stack_end() - stack_addr;
    // The stack itself.
    std::array<dwunw_frame, kMaxFrames> frames;
    const auto request = request_for(regs, stack_addr, reinterpret_cast<const void *>(stack_addr), stack_size, frames);
    size_t count = 0;
    const dwunw_status status = dwunw_signal_capture(tables, &request, &count);
    seen->errno_changed += errno != 4711;

    ++seen->interruptions;
    seen->in_allocator += allocating;
    seen->complete += status == DWUNW_OK;
    seen->would_block += status == DWUNW_ERR_WOULD_BLOCK;
    seen->other += status != DWUNW_OK && status != DWUNW_ERR_WOULD_BLOCK;
    if (status == DWUNW_OK) {
        bool found = false;
        for (size_t i = 0; i < count; ++i)
            found |= frames[i].pc == caller_of_loop;
        seen->without_caller += !found;
    }
    if (allocating && seen->in_allocator % (kInterruptions / kKept) == 0 && seen->kept_count < seen->kept.size() &&
        stack_size <= sizeof(Kept::stack)) {
        Kept &kept = seen->kept[seen->kept_count++];
        kept.status = status;
        kept.count = count;
        kept.regs = regs;
        kept.frames = frames;
        kept.stack_addr = stack_addr;
        kept.stack_size = stack_size;
        std::memcpy(kept.stack.data(), reinterpret_cast<const void *>(stack_addr), stack_size);
    }
    if (seen->in_allocator < kInterruptions)
        arm();
    in_handler = 0;
}

// Allocates and frees blocks of all sizes until the handler has seen enough.
[[gnu::noinline]] void allocate_until_done() {
    std::array<void *, 64> blocks{};
    uint64_t random = 1;
    while (static_cast<volatile Seen *>(seen)->in_allocator < kInterruptions) {
        random = random * 6'364'136'223'846'793'005u + 1;
        void *&block = blocks[random >> 58];
        const size_t size = size_t{16} << (random >> 40 & 15);
        if ((random >> 32 & 3) == 0) {
            block = ::realloc(block, size);
        } else {
            ::free(block);
            block = ::malloc(size);
        }
    }
    for (void *block : blocks)
        ::free(block);
}

class SignalTest : public ::testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(dwunw_init(nullptr, &context), DWUNW_OK);
        dwunw_process_options options{};
        options.size = sizeof(options);
        options.pid = ::getpid();
        ASSERT_EQ(dwunw_process_open(context, &options, &process), DWUNW_OK);
        ASSERT_EQ(dwunw_signal_tables_open(process, &tables), DWUNW_OK);
    }
    void TearDown() override {
        dwunw_signal_tables_close(tables);
        dwunw_process_close(process);
        dwunw_shutdown(context);
    }
};

// Whether the kernel can say whether a mapping is still what it was, without the map being read again.
bool kernel_verifies_mappings() {
    utsname names{};
    unsigned major = 0;
    unsigned minor = 0;
    return ::uname(&names) == 0 && std::sscanf(names.release, "%u.%u", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 11));
}

[[gnu::noinline]] void interrupt_allocations() {
    caller_of_loop = reinterpret_cast<uint64_t>(__builtin_return_address(0));
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGPROF;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    struct sigaction action {};
    struct sigaction before {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    ASSERT_EQ(::sigaction(SIGPROF, &action, &before), 0);
    ASSERT_EQ(::timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    arm();
    allocate_until_done();
    ASSERT_EQ(::timer_delete(timer), 0);
    ASSERT_EQ(::sigaction(SIGPROF, &before, nullptr), 0);
}

TEST_F(SignalTest, AHandlerInterruptsMallocAHundredThousandTimes) {
    Seen result;
    result.kept.resize(kKept);
    seen = &result;
    interrupt_allocations();
    EXPECT_GE(result.in_allocator, kInterruptions);
    EXPECT_EQ(result.complete + result.would_block + result.other, result.interruptions);
    EXPECT_EQ(result.other, 0u);
    EXPECT_EQ(result.errno_changed, 0u);
    EXPECT_EQ(result.without_caller, 0u);
    RecordProperty("interruptions", static_cast<int>(result.interruptions));
    RecordProperty("complete", static_cast<int>(result.complete));
    std::printf("%zu interruptions, %zu in the allocator, %zu complete, %zu to be walked elsewhere\n",
                result.interruptions, result.in_allocator, result.complete, result.would_block);
    if (kernel_verifies_mappings()) {
        EXPECT_GE(result.complete, result.interruptions / 100 * 99);
    }

    dwunw_process_counters counters{};
    counters.size = sizeof(counters);
    ASSERT_EQ(dwunw_process_get_counters(process, &counters), DWUNW_OK);
    EXPECT_EQ(counters.captures, result.interruptions);
    EXPECT_EQ(counters.complete, result.complete);

    // The same stacks outside of the handler: the same frames, and what the handler left open is walked to the root.
    EXPECT_EQ(result.kept_count, kKept);
    for (size_t i = 0; i < result.kept_count; ++i) {
        const Kept &kept = result.kept[i];
        std::array<dwunw_frame, kMaxFrames> frames;
        const auto request = request_for(kept.regs, kept.stack_addr, kept.stack.data(), kept.stack_size, frames);
        size_t count = 0;
        EXPECT_EQ(dwunw_capture(context, &request, &count), DWUNW_OK) << i;
        ASSERT_LE(kept.count, count) << i;
        if (kept.status == DWUNW_OK) {
            EXPECT_EQ(kept.count, count) << i;
        }
        for (size_t frame = 0; frame < kept.count; ++frame) {
            EXPECT_EQ(kept.frames[frame].pc, frames[frame].pc) << i << " " << frame;
            EXPECT_EQ(kept.frames[frame].sp, frames[frame].sp) << i << " " << frame;
            EXPECT_EQ(kept.frames[frame].module, frames[frame].module) << i << " " << frame;
        }
    }
}

// What this program's malloc and locks are there for.
TEST_F(SignalTest, WhatAllocatesOrLocksInAHandlerIsSeen) {
    for (const bool lock : {false, true}) {
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            ::close(2);
            in_handler = 1;
            if (lock)
                dwunw_wait_for_tables(context);
            else
                ::free(::malloc(1));
            ::_exit(0);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) << lock << " " << status;
    }
}

TEST_F(SignalTest, WhatIsRefused) {
    std::array<dwunw_frame, kMaxFrames> frames;
    dwunw_regset regs{};
    ucontext_t here;
    ASSERT_EQ(::getcontext(&here), 0);
    dwunw_regset_from_x86_64_getcontext(&regs, &here);
    const auto good = request_for(regs, 0, nullptr, 0, frames);
    size_t count = 9;
    EXPECT_EQ(dwunw_signal_capture(tables, &good, &count), DWUNW_ERR_SLICE_EXHAUSTED);
    EXPECT_EQ(count, 1u);
    EXPECT_EQ(dwunw_signal_capture(nullptr, &good, &count), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(count, 0u);
    EXPECT_EQ(dwunw_signal_capture(tables, nullptr, &count), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_signal_capture(tables, &good, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    const auto refused = [&](auto change) {
        auto request = good;
        change(request);
        return dwunw_signal_capture(tables, &request, &count);
    };
    EXPECT_EQ(refused([](auto &r) { r.size = 4; }), DWUNW_ERR_STRUCT_SIZE);
    EXPECT_EQ(refused([](auto &r) { r.process = nullptr; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.regs = nullptr; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.options = DWUNW_UNWIND_READ_PROCESS; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.read_memory = dwunw_process_read_memory; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.pending_return_count = 1; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.frames = nullptr; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.max_frames = 0; }), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(refused([](auto &r) { r.stack_size = 8; }), DWUNW_ERR_INVALID_ARGUMENT);
    dwunw_regset other = regs;
    other.arch = 77;
    EXPECT_EQ(refused([&](auto &r) { r.regs = &other; }), DWUNW_ERR_UNSUPPORTED_ARCH);
    other = regs;
    other.valid = 0;
    EXPECT_EQ(refused([&](auto &r) { r.regs = &other; }), DWUNW_ERR_INVALID_ARGUMENT);

    dwunw_signal_tables *none = nullptr;
    EXPECT_EQ(dwunw_signal_tables_open(nullptr, &none), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(dwunw_signal_tables_open(process, nullptr), DWUNW_ERR_INVALID_ARGUMENT);
    EXPECT_EQ(none, nullptr);
    dwunw_signal_tables_close(nullptr);
}

} // namespace
