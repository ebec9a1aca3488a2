// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
/*
 * A program that makes every reader of it wait for ever. Says "ready ADDRESS", then answers "alive" to every line.
 *
 *   no_answer_target page          a page in the middle of a thread's stack is a userfaultfd's, which never answers
 *   no_answer_target file DIR LIB  its code is in a FUSE file, DIR/code.so, a copy of LIB, whose server stops answering
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, STACK_PAGES = 64, DEPTH = 40, FILE_NODE = 2 };

static void check(int done, const char *what) {
    if (done)
        return;
    perror(what);
    exit(1);
}

static int talk(unsigned long address) {
    char line[64];

    printf("ready %#lx\n", address);
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        puts("alive");
        fflush(stdout);
    }
    return 0;
}

/* A page that never comes. */

static sem_t deep_enough;
static char *innermost;
static volatile int woken;

static __attribute__((noinline)) int descend(int depth) {
    volatile char room[1024];

    room[0] = (char)depth;
    if (depth == 0) {
        innermost = (char *)room;
        sem_post(&deep_enough);
        while (!woken)
            pause();
        return 0;
    }
    return descend(depth - 1) + room[0];
}

static void *run(void *arg) {
    (void)arg;
    return (void *)(long)descend(DEPTH);
}

static int with_page(void) {
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
    pthread_attr_t attributes;
    pthread_t thread;
    char *stack, *page;
    int fd;

    stack = mmap(NULL, STACK_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(stack != MAP_FAILED, "mmap");
    sem_init(&deep_enough, 0, 0);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK_PAGES * PAGE);
    check(pthread_create(&thread, &attributes, run, NULL) == 0, "pthread_create");
    sem_wait(&deep_enough);

    page = (char *)((uintptr_t)(innermost + 5 * PAGE) & -(uintptr_t)PAGE);
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    check(fd >= 0, "userfaultfd");
    check(ioctl(fd, UFFDIO_API, &api) == 0, "UFFDIO_API");
    range.range.start = (uintptr_t)page;
    range.range.len = PAGE;
    check(ioctl(fd, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
    check(madvise(page, PAGE, MADV_DONTNEED) == 0, "madvise");
    return talk((uintptr_t)page);
}

/* A file whose server has stopped answering. */

static void answer(int fd, uint64_t unique, int error, const void *data, size_t size) {
    struct fuse_out_header header = {
        .len = (uint32_t)(sizeof(header) + size),
        .error = error,
        .unique = unique,
    };
    struct iovec both[] = {{&header, sizeof(header)}, {(void *)data, size}};

    check(writev(fd, both, size ? 2 : 1) >= 0 || errno == ENOENT, "/dev/fuse");
}

static void describe(int library, uint64_t node, struct fuse_attr *attributes) {
    struct stat status;

    fstat(library, &status);
    attributes->ino = node;
    attributes->mode = node == FILE_NODE ? S_IFREG | 0755 : S_IFDIR | 0755;
    attributes->nlink = 1;
    attributes->size = node == FILE_NODE ? (uint64_t)status.st_size : 0;
    attributes->blksize = PAGE;
}

/* Serves until *mute, and from then on takes requests and leaves them. */
static void serve(int fd, int library, volatile int *mute) {
    static char request[1 << 20];
    static char content[1 << 17];

    for (;;) {
        const struct fuse_in_header *header = (const void *)request;
        const void *argument = header + 1;

        if (read(fd, request, sizeof(request)) < (ssize_t)sizeof(*header)) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            exit(0);
        }
        if (*mute)
            continue;
        switch (header->opcode) {
        case FUSE_INIT: {
            struct fuse_init_out out = {.major = 7, .minor = 31, .max_write = 1 << 16};

            answer(fd, header->unique, 0, &out, sizeof(out));
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out out = {.nodeid = FILE_NODE};

            describe(library, FILE_NODE, &out.attr);
            if (strcmp(argument, "code.so") == 0)
                answer(fd, header->unique, 0, &out, sizeof(out));
            else
                answer(fd, header->unique, -ENOENT, NULL, 0);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out out = {0};

            describe(library, header->nodeid, &out.attr);
            answer(fd, header->unique, 0, &out, sizeof(out));
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out out = {0};

            answer(fd, header->unique, 0, &out, sizeof(out));
            break;
        }
        case FUSE_READ: {
            const struct fuse_read_in *in = argument;
            size_t size = in->size < sizeof(content) ? in->size : sizeof(content);
            ssize_t got = pread(library, content, size, (off_t)in->offset);

            answer(fd, header->unique, got < 0 ? -EIO : 0, content, got < 0 ? 0 : (size_t)got);
            break;
        }
        case FUSE_FLUSH:
        case FUSE_RELEASE:
            answer(fd, header->unique, 0, NULL, 0);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        default:
            answer(fd, header->unique, -ENOSYS, NULL, 0);
        }
    }
}

static volatile int *muted;

static int inside(void) {
    *muted = 1;
    return talk(0);
}

static int with_file(const char *folder, const char *library_path) {
    int (*call)(int (*)(void));
    char options[128], path[4096];
    int fd, library;
    pid_t parent;
    void *handle;

    muted = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(muted != MAP_FAILED, "mmap");
    library = open(library_path, O_RDONLY | O_CLOEXEC);
    check(library >= 0, library_path);
    /* The mount goes with this program. */
    check(unshare(CLONE_NEWNS) == 0, "unshare");
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "mount /");
    fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    check(fd >= 0, "/dev/fuse");
    snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    check(mount("no_answer", folder, "fuse", 0, options) == 0, "mount");
    parent = getpid();
    if (fork() == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            serve(fd, library, muted);
        _exit(0);
    }
    close(fd);
    snprintf(path, sizeof(path), "%s/code.so", folder);
    handle = dlopen(path, RTLD_NOW);
    if (!handle) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&call = dlsym(handle, "call");
    return call ? call(inside) : 1;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "page") == 0)
        return with_page();
    if (argc == 4 && strcmp(argv[1], "file") == 0)
        return with_file(argv[2], argv[3]);
    return 2;
}
