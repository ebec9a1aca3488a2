// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
// Leaves allocators by every way that is not a return, looks at its own stack in and around them, and prints what it
// sees. dwunw memleak must change none of it: not one line, and not the status, 7.
//
//     memleak_behaviour_target [malloc]    only what malloc's family is used for: mimalloc's new aborts where it fails
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <execinfo.h>
#include <new>
#include <pthread.h>
#include <stdexcept>
#include <string>
#include <unistd.h>
#include <vector>

namespace {

#define STEP __attribute__((noinline, noclone))

volatile size_t too_large = SIZE_MAX / 4; // the compiler does not know it

// Says how often it ran.
struct Guard {
    static inline int destroyed = 0;
    std::vector<int> numbers = std::vector<int>(10);
    ~Guard() { ++destroyed; }
};

int depth() {
    void *frames[100];
    return backtrace(frames, 100);
}

// Without the frames that are the allocator's own, whose number is its affair: what matters is that the stack goes on.
bool sees(const char *function) {
    void *frames[100];
    const int count = backtrace(frames, 100);
    char **names = backtrace_symbols(frames, count);
    bool found = false;
    for (int i = 0; i < count; ++i)
        found |= std::string(names[i]).find(function) != std::string::npos;
    free(names);
    return found;
}

} // namespace

// Exported, so that backtrace_symbols() knows them.
extern "C" {

STEP void call_new(size_t size) {
    const Guard guard;
    ::operator delete(::operator new(size));
}

STEP void call_new_array_aligned(size_t size) {
    const Guard guard;
    ::operator delete[](::operator new[](size, std::align_val_t{256}), std::align_val_t{256});
}

STEP void call_new_nothrow(size_t size) {
    const Guard guard;
    void *block = ::operator new(size, std::nothrow);
    std::printf("nothrow: %s\n", block ? "a block" : "nothing");
    ::operator delete(block);
}

} // extern "C"

namespace {

void say_destroyed(const char *what) {
    std::printf("%s: %d destroyed\n", what, Guard::destroyed);
    Guard::destroyed = 0;
}

template <typename Call> void catching(const char *what, Call call) {
    try {
        call(too_large);
        std::printf("%s: returned\n", what);
    } catch (const std::bad_alloc &) {
        std::printf("%s: bad_alloc\n", what);
    } catch (const std::exception &error) {
        std::printf("%s: %s\n", what, error.what());
    }
    say_destroyed(what);
}

void fail_all_forms(const char *what) {
    std::printf("-- %s\n", what);
    catching("new", call_new);
    catching("new[] aligned", call_new_array_aligned);
    catching("nothrow", call_new_nothrow);
}

void handler_that_throws() { throw std::runtime_error("of the handler"); }
void handler_that_throws_bad_alloc() { throw std::bad_alloc(); }

void handler_that_looks() {
    std::printf("handler: sees its caller: %d, main: %d\n", sees("call_new"), sees("main"));
    std::set_new_handler(nullptr);
}

void handler_that_allocates() {
    std::string text(100, 'x');
    std::printf("handler: %zu\n", text.size());
    std::set_new_handler(nullptr);
}

jmp_buf jump;
void handler_that_jumps() { std::longjmp(jump, 1); }
void handler_that_ends_the_thread() { pthread_exit(nullptr); }
void handler_that_is_cancelled() {
    pthread_cancel(pthread_self());
    pthread_testcancel();
}

void *allocate_in_thread(void *what) {
    const Guard guard;
    try {
        call_new(too_large);
        std::printf("%s: returned\n", static_cast<const char *>(what));
    } catch (const std::bad_alloc &) {
        std::printf("%s: bad_alloc\n", static_cast<const char *>(what));
    }
    return what;
}

void in_thread(const char *what) {
    pthread_t id;
    void *result = nullptr;
    if (pthread_create(&id, nullptr, allocate_in_thread, const_cast<char *>(what)) != 0 ||
        pthread_join(id, &result) != 0)
        std::abort();
    std::printf("%s: %s\n", what, result == PTHREAD_CANCELED ? "cancelled" : result == what ? "ended" : "left");
    say_destroyed(what);
}

// Allocates without end, until it is cancelled in between.
void *allocate_until_cancelled(void *ready) {
    const Guard guard;
    for (size_t i = 0;; ++i) {
        ::operator delete(::operator new(1 + i % 5000));
        free(malloc(1 + i % 300000));
        if (i == 1000 && ::write(*static_cast<int *>(ready), "", 1) != 1)
            std::abort();
        pthread_testcancel();
    }
}

void cancel_while_it_allocates() {
    int ready[2];
    char byte;
    pthread_t id;
    void *result = nullptr;
    if (::pipe(ready) != 0 || pthread_create(&id, nullptr, allocate_until_cancelled, &ready[1]) != 0 ||
        ::read(ready[0], &byte, 1) != 1 || pthread_cancel(id) != 0 || pthread_join(id, &result) != 0)
        std::abort();
    std::printf("cancel: %d\n", result == PTHREAD_CANCELED);
    say_destroyed("cancel");
}

sigjmp_buf signal_jump;
void leave(int) { siglongjmp(signal_jump, 1); }

// posix_memalign has its block, and nowhere to store the address.
void jump_out_of_malloc() {
    static int left; // a jump leaves it alone
    for (static int i = 0; i < 100; ++i) {
        void **volatile nowhere = reinterpret_cast<void **>(8);
        if (sigsetjmp(signal_jump, 1) != 0)
            ++left;
        else if (posix_memalign(nowhere, 64, 100) == 0)
            std::abort();
        free(malloc(100));
    }
    std::printf("left posix_memalign %d times; depth %d\n", left, depth() > 2);
}

void throw_through_allocations(int levels) {
    const std::string text(static_cast<size_t>(levels) + 30, 'x');
    if (levels == 0)
        throw std::runtime_error(text);
    throw_through_allocations(levels - 1);
}

int compare_and_throw(const void *, const void *) { throw std::runtime_error("of the comparison"); }

void throw_through_libc() {
    int numbers[2] = {2, 1};
    try {
        std::qsort(numbers, 2, sizeof numbers[0], compare_and_throw);
        std::puts("qsort returned");
    } catch (const std::runtime_error &error) {
        std::printf("qsort: %s\n", error.what());
    }
}

void fail_new() {
    fail_all_forms("no handler");
    std::set_new_handler(handler_that_throws_bad_alloc);
    fail_all_forms("a handler that throws bad_alloc");
    std::puts("-- a handler that throws something else");
    std::set_new_handler(handler_that_throws);
    catching("new", call_new);
    catching("new[] aligned", call_new_array_aligned);
    std::puts("-- a handler that looks at its stack");
    std::set_new_handler(handler_that_looks);
    catching("new", call_new);
    std::set_new_handler(handler_that_looks);
    catching("new[] aligned", call_new_array_aligned);
    std::puts("-- a handler that allocates");
    std::set_new_handler(handler_that_allocates);
    catching("new", call_new);
    std::puts("-- a handler that jumps");
    std::set_new_handler(handler_that_jumps);
    for (static int i = 0; i < 100; ++i)
        if (setjmp(jump) == 0)
            call_new(too_large);
        else
            ::operator delete(::operator new(100));
    std::printf("sees main: %d\n", sees("main"));
    Guard::destroyed = 0;
    std::puts("-- a handler that ends the thread");
    std::set_new_handler(handler_that_ends_the_thread);
    in_thread("pthread_exit");
    std::set_new_handler(handler_that_is_cancelled);
    in_thread("pthread_cancel");
    std::set_new_handler(nullptr);
    in_thread("no handler");
}

} // namespace

int main(int argc, char **) {
    setvbuf(stdout, nullptr, _IOLBF, 1 << 16);
    // Its first call loads a library; a signal handler is no place for that.
    std::printf("depth: %d\n", depth() > 1);
    if (argc == 1)
        fail_new();
    cancel_while_it_allocates();

    std::puts("-- malloc");
    std::signal(SIGSEGV, leave);
    jump_out_of_malloc();
    std::signal(SIGSEGV, SIG_DFL);
    for (int i = 0; i < 100; ++i)
        try {
            throw_through_allocations(50);
        } catch (const std::runtime_error &error) {
            if (i == 0)
                std::printf("%s\n", error.what());
        }
    throw_through_libc();
    return 7;
}
