#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""bpf_walk_test.py USER TARGET PLUGIN_A PLUGIN_B SUBJECT: walks stacks inside the kernel, and compares them with the same
stacks from libgcc's unwinder within the program, from gdb, and from dwunw_capture at the same moment.

Every subject checks every stack: a complete stack is the true stack, frame for frame. An incomplete stack is the beginning
of the true stack, and says why it ends. A counter counts everything that is lost."""

import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
import bpf_support  # noqa: E402
from bpf_walk_run import Failure, Target, Walker, check  # noqa: E402

COMPLETE = "reached the root"
IN_KERNEL = "complete"
EXACT_PC = 1


class Test:
    def __init__(self, user, target, plugin_a, plugin_b):
        self.user = user
        self.target = target
        self.plugins = [plugin_a, plugin_b]

    def run(self, subject, *options, prefix=(), generations=0):
        target = Target(self.target, *subject, prefix=prefix, generations=generations)
        try:
            walker = Walker(self.user, [target], *options, file=self.target)
            target.go()
            target.wait()
            walker.end()
        finally:
            target.end()
        return target, walker

    # What a stack is from call()'s caller on; it has probe_here and call() before.
    @staticmethod
    def returns(stack):
        return [frame[0] for frame in stack["frames"][2:]]

    def check_stack(self, stack, truth, what):
        if "missing" in stack:
            return
        returns = self.returns(stack)
        if stack["status"] == COMPLETE:
            check(returns == truth, f"{what}: complete and wrong:\n{[hex(pc) for pc in returns]}\n"
                                    f"{[hex(pc) for pc in truth]}")
        else:
            check(returns == truth[:len(returns)], f"{what}: not the beginning of the true one ({stack['status']}):\n"
                                                   f"{[hex(pc) for pc in returns]}\n{[hex(pc) for pc in truth]}")

    def check_all(self, target, walker, count, in_kernel=None):
        """Every call has its stacks, true ones; those of the kernel's walk complete. `in_kernel`: how many at least the
        kernel has to have finished itself (default: all)."""
        check(len(walker.calls) == count, f"{len(walker.calls)} calls, expected {count}")
        finished = 0
        for call in walker.calls:
            number = call["number"]
            for name in ("kernel", "user"):
                if name not in call:
                    continue
                stack = call[name]
                check("missing" not in stack, f"{name} {number}: {stack.get('missing')}")
                check(stack["status"] == COMPLETE, f"{name} {number}: {stack['status']}, {stack['reason']}")
                self.check_stack(stack, target.truth[number], f"{name} {number}")
            if "user" in call:
                check(call["kernel"]["frames"] == call["user"]["frames"],
                      f"{number}: kernel and user differ:\n{call['kernel']['frames']}\n{call['user']['frames']}")
            finished += call["kernel"]["reason"] == IN_KERNEL
        in_kernel = count if in_kernel is None else in_kernel
        check(finished >= in_kernel, f"{finished} of {count} finished in the kernel: {walker.counters['reasons']}")

    def depths(self):
        for levels in (4, 15, 30, 60, 120, 240):
            self.check_all(*self.run(("depth", levels, 40), "-c"), 40)

    def deepest(self):
        """Past the kernel's limit: user space goes on."""
        target, walker = self.run(("depth", 300, 10), "-c", "-s", 65536)
        reasons = walker.counters["reasons"]
        check(reasons["frame limit of the kernel's walk"] == 10, f"{reasons}")
        for call in walker.calls:
            check(call["kernel"]["frames"] == call["user"]["frames"], "kernel and user differ")
            self.check_stack(call["kernel"], target.truth[call["number"]], call["number"])

    def old_forms(self):
        """What the kernel has is switched off, in every combination."""
        for options in (("-l",), ("-T",), ("-l", "-T")):
            target, walker = self.run(("depth", 30, 20), "-c", *options)
            self.check_all(target, walker, 20)
            choices = walker.counters["choices"]
            check(("128 frames (switched off)" in choices) == ("-l" in options), choices)
            check(("hash by thread (switched off)" in choices) == ("-T" in options), choices)
        _, walker = self.run(("depth", 80, 5), "-l", "-T")
        check(walker.counters["reasons"]["frame limit of the kernel's walk"] == 5, f"{walker.counters}")
        target, walker = self.run(("threads", 6, 10, 10), "-c", "-T", "-t", 64, "-r", 1 << 25)
        self.check_all(target, walker, 60)
        # Fewer states than threads: those that find none have no stack, and are counted.
        target, walker = self.run(("threads", 6, 10, 10), "-T", "-t", 1)
        missing = sum("missing" in call["kernel"] for call in walker.calls)
        check(missing == walker.counters["reasons"]["no room for a walk's state"], f"{missing}: {walker.counters}")

    def threads(self):
        target, walker = self.run(("threads", 8, 20, 50), "-c", "-r", 1 << 25)
        self.check_all(target, walker, 400)
        check(len({call["tid"] for call in walker.calls}) == 8, "threads")

    def signals(self):
        target, walker = self.run(("signals", 10), "-c")
        check(len(walker.calls) == 20, f"{len(walker.calls)} calls")
        for call in walker.calls:
            number = call["number"]
            kernel, user = call["kernel"], call["user"]
            check(kernel["status"] == COMPLETE and kernel["reason"] == IN_KERNEL, f"{number}: {kernel}")
            self.check_stack(kernel, target.truth[number], f"kernel {number}")
            self.check_stack(user, target.truth[number], f"user {number}")
            flags = [frame[1] for frame in kernel["frames"]]
            check(any(flag & 2 for flag in flags) and sum(flag & EXACT_PC for flag in flags) == 2, f"no signal: {flags}")
            # From a stack of its own, a slice does not reach the interrupted frames.
            same = kernel["frames"][:len(user["frames"])] == user["frames"]
            check(same and (number % 2 or user["status"] == COMPLETE), f"{number}: kernel and user differ")

    def null(self):
        """In the handler of a call through a null pointer: user space finds who called, under the kernel's id. libgcc ends
        there."""
        target, walker = self.run(("null", 10), "-c")
        check(len(walker.calls) == 10, f"{len(walker.calls)} calls")
        (caller,) = target.truth[5000]
        for call in walker.calls:
            number = call["number"]
            for name in ("kernel", "user"):
                stack = call[name]
                check(stack["status"] == COMPLETE, f"{name} {number}: {stack['status']}, {stack['reason']}")
                check(stack["reason"] != IN_KERNEL, f"{name} {number}: finished in the kernel")
                pcs = [frame[0] for frame in stack["frames"]]
                check(pcs.count(0) == 1 and pcs[pcs.index(0) + 1] == caller, f"{name} {number}: {pcs}, {caller}")
                truth = target.truth[number]
                inner = self.returns(stack)[:len(truth)]
                check(inner == truth or truth[:len(inner)] == inner, f"{name} {number}: {inner}, {truth}")

    def pending(self):
        """The true stacks come from a run without return probes, at the same addresses."""
        fixed = ("setarch", "-R")
        for levels in (1, 12):
            without, _ = self.run(("pending", levels, 8, "tell"), prefix=fixed)
            target, walker = self.run(("pending", levels, 8, "silent"), "-c", "-R", "pending_inner", "-R",
                                      "pending_jumps", "-R", "pending_outer", prefix=fixed)
            target.truth = without.truth
            self.check_all(target, walker, 8)
            check(walker.counters["trampoline_frames"] >= 16, f"{walker.counters}")

    def nested(self):
        """dwunw_calls.bpf.h: of calls within each other the outermost is seen, once, in both places that it can be kept."""
        for options in ((), ("-T",), ("-T", "-t", 64)):
            for functions, count in ((("pending_inner",), 8), (("pending_outer", "pending_inner"), 8)):
                names = [word for name in functions for word in ("-C", name)]
                _, walker = self.run(("pending", 12, 8, "silent"), *names, *options)
                check(walker.nested == [count, count, 0], f"{options} {functions}: {walker.nested}")
                check(walker.counters["lost_calls"] == 0, f"{walker.counters}")

    def at_return(self):
        """The probe at the function's return: probe_here is gone, the stack begins in call()."""
        target, walker = self.run(("depth", 20, 10), "-c", "-n")
        for call in walker.calls:
            check([f[0] for f in call["kernel"]["frames"][1:]] == target.truth[call["number"]], "at return")
            check(call["kernel"]["frames"] == call["user"]["frames"], "at return: kernel and user differ")

    def gdb(self):
        """gdb stops the program where it has just taken a stack."""
        for levels in (4, 15, 30, 60, 240):
            target = Target(self.target, "depth", levels, 1)
            try:
                walker = Walker(self.user, [target], file=self.target)
                script = pathlib.Path(f"bpf_walk_{target.pid}.gdb")
                # Not where the probe is: its breakpoint is the kernel's.
                script.write_text("\n".join((
                    "set pagination off", "set confirm off", "set backtrace past-main on", "set backtrace past-entry on",
                    f"attach {target.pid}", "break backtrace", "echo SET\\n", "continue", "python",
                    "frame, pcs = gdb.newest_frame(), []",
                    "while frame:",
                    # Those that only debug information knows of have no frame in memory.
                    "  pcs += [] if frame.type() in (gdb.INLINE_FRAME, gdb.TAILCALL_FRAME) else [frame.pc()]",
                    "  frame = frame.older()",
                    "print('FRAMES', *pcs)",
                    "end", "delete", "detach")), encoding="utf-8")
                gdb = subprocess.Popen(["gdb", "-nx", "-q", "-batch", "-x", str(script), self.target],
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                output = ""
                while not output.endswith("SET\n"):
                    line = gdb.stdout.readline()
                    check(line, f"gdb: {output}")
                    output += line
                target.go()
                output += gdb.communicate(timeout=120)[0]
                script.unlink()
                target.wait()
                walker.end()
            finally:
                target.end()
            found = re.search(r"^FRAMES (.*)$", output, re.M)
            check(found, f"gdb: {output}")
            stack = walker.calls[0]["kernel"]
            check(stack["status"] == COMPLETE and stack["reason"] == IN_KERNEL, f"{stack['reason']}")
            ours, theirs = self.returns(stack), [int(pc) for pc in found.group(1).split()][2:]
            check(ours == theirs, f"gdb differs at {levels}:\n{[hex(p) for p in ours]}\n{[hex(p) for p in theirs]}")

    def distinct(self):
        target, walker = self.run(("distinct", 6000))
        self.check_all(target, walker, 6000)
        check(len({call["kernel"]["id"] for call in walker.calls}) == 6000, "ids")
        check(walker.counters["new_stacks"] == 6000, f"{walker.counters}")

    def few_ids(self):
        """A kernel that forgets what it has sent sends it again; nothing else changes."""
        target, walker = self.run(("distinct", 2000), "-i", 64)
        self.check_all(target, walker, 2000)
        check(walker.counters["stacks"] == 2000, f"{walker.counters}")

    def full_ring(self):
        """The ring is not read while stacks come."""
        target, walker = self.run(("distinct", 3000), "-I", "-r", 65536)
        counters = walker.counters
        dropped = counters["reasons"]["the ring buffer is full"]
        missing = [call for call in walker.calls if "missing" in call["kernel"]]
        check(len(walker.calls) == 3000 and dropped > 1000, f"{counters}")
        check(len(missing) == dropped, f"{len(missing)} without a stack, {dropped} dropped")
        for call in walker.calls:
            self.check_stack(call["kernel"], target.truth[call["number"]], call["number"])

    def small_pool(self):
        """Tables that find no room: user space walks, and it is counted."""
        target, walker = self.run(("depth", 10, 20), "-P", 16384)
        counters = walker.counters
        check(counters["modules_without_room"] > 0, f"{counters}")
        check(counters["reasons"]["a module whose table found no room"] == 20, f"{counters}")
        self.check_all(target, walker, 20, in_kernel=0)

    def user_walks(self):
        """Equal stacks for user space are sent once; and one path cannot fill the ring."""
        target, walker = self.run(("depth", 10, 1),)
        target = Target(self.target, "jit", 40)
        try:
            walker = Walker(self.user, [target], "-c", file=self.target)
            target.go()
            target.wait()
            walker.end()
        finally:
            target.end()
        counters = walker.counters
        code = counters["reasons"]["code without a file"]
        check(code > 0 and counters["deduplicated"] > 0, f"{counters}")
        for call in walker.calls:
            check("missing" not in call["kernel"], f"{call}")
            # The frame pointer leads out of the code that has no rules.
            check(call["kernel"]["status"] == COMPLETE, f"{call['kernel']}")
            check(call["kernel"]["frames"] == call["user"]["frames"], "kernel and user differ")
        ids = {call["kernel"]["id"] for call in walker.calls if call["kernel"]["reason"] == "code without a file"}
        check(len(ids) <= 8, f"{len(ids)} ids of 4 stacks")

    UNSHARE = ("unshare", "-pf", "--mount-proc")

    def within(self, *subjects, levels=1):
        """Subjects, with the tool and its targets in a pid namespace of their own."""
        inner = subprocess.run([*self.UNSHARE * levels, sys.executable, __file__, self.user, self.target, *self.plugins,
                                *subjects], capture_output=True, text=True, check=False)
        check(inner.returncode == 0, f"within {levels}: {inner.stdout}{inner.stderr}")

    def pid_namespace(self):
        """Found in use: in a container every stack was lost, because the kernel's programs saw other numbers."""
        self.within("depths", "old_forms", "user_walks", "stays", "exec_loop", "forks", "threads")
        # The tool outside, the target in a namespace of its own.
        self.check_all(*self.run(("depth", 12, 20), "-c", prefix=self.UNSHARE, generations=1), 20)

    def nested_pid_namespaces(self):
        self.within("depths", "forks", levels=2)
        self.check_all(*self.run(("depth", 12, 20), "-c", prefix=self.UNSHARE * 2, generations=2), 20)
        # The tool in one namespace, the target in another within it.
        self.within("target_in_its_own")
        # /proc of an outer namespace: its numbers are other processes', so nothing is begun.
        outer = subprocess.run(["unshare", "-pf", self.user, "-p", "1", self.target, "probe_here"], capture_output=True,
                               text=True, check=False, input="")
        check(outer.returncode != 0 and "/proc is of another pid namespace" in outer.stdout + outer.stderr, f"{outer}")

    def target_in_its_own(self):
        for levels in (1, 2):
            self.check_all(*self.run(("depth", 12, 20), "-c", prefix=self.UNSHARE * levels, generations=levels), 20)
        # A process of a namespace within is found by its number here when it is not known yet, too.
        target, walker = self.run(("fork", 5), "-c", "-a", prefix=self.UNSHARE, generations=1)
        check(len(walker.calls) == 10, f"{len(walker.calls)} calls")
        for call in walker.calls:
            self.check_stack(call["kernel"], target.truth[call["number"]], call["number"])

    def moved_text(self):
        """Code that a program has moved to memory without a file keeps its rules and its name."""
        target, walker = self.run(("moved", 90, *self.plugins), "-c")
        check(len(walker.calls) == 90, f"{len(walker.calls)} calls")
        self.check_plugins(target, walker)
        for call in walker.calls[-20:]:
            for name in ("kernel", "user"):
                stack = call[name]
                check(stack["status"] == COMPLETE, f"{name}: {stack}")
                named = [f[3] for f in stack["frames"]].count(self.plugins[0])
                check(named == 2, f"{name}: {named} frames of the plugin: {stack}")
            check(call["kernel"]["frames"] == call["user"]["frames"], "kernel and user differ")
        check(walker.calls[-1]["kernel"]["reason"] == IN_KERNEL, f"{walker.calls[-1]['kernel']}")

    def other_context(self):
        """A perf_event's ctx holds the kernel's addresses; the walk would give them out as the process's."""
        done = subprocess.run([self.user, "-S", self.target, "probe_here"], capture_output=True, text=True, check=True)
        status, *lines = done.stdout.splitlines()
        check(status == "invalid argument", status)
        refused = "refused: dwunw_get_stackid needs a pt_regs, but its caller is program on_sample, of type perf_event"
        check(refused in lines, done.stdout)

    def no_elf(self):
        """Code in a mapped file that is no ELF image: a frame pointer leads out of it as out of memory without a file."""
        target = Target(self.target, "blob", 40)
        try:
            walker = Walker(self.user, [target], "-c", file=self.target)
            target.go()
            target.wait()
            walker.end()
        finally:
            target.end()
        reasons = walker.counters["reasons"]
        check(reasons["a module without usable call-frame information"] > 0, f"{reasons}")
        for call in walker.calls:
            for name in ("kernel", "user"):
                stack = call[name]
                check(stack.get("status") == COMPLETE, f"{name}: {stack}")
                check(any("bpf_walk_blob" in f[3] for f in stack["frames"]), f"{name}: the file has no frame: {stack}")

    def check_plugins(self, target, walker):
        for call in walker.calls:
            for name in ("kernel", "user"):
                if name in call and "frames" in call[name]:
                    self.check_stack(call[name], target.truth[call["number"]], f"{name} {call['number']}")
                    plugin = target.plugins[call["number"]]
                    named = {f[3] for f in call[name]["frames"] if "bpf_walk_plugin" in f[3]}
                    check(named <= {plugin}, f"frames in {named}, loaded was {plugin!r}")

    def check_places(self, target):
        places = [set(), set()]
        for number, plugin in target.plugins.items():
            if plugin:
                places[self.plugins.index(plugin)].add(target.truth[number][0] >> 12)
        check(places[0] & places[1], "the plugins never took each other's place")

    def storm(self):
        """Two plugins load and unload in each other's place."""
        for options in ((), ("-d",)):
            for pause in (3000, 0):
                target, walker = self.run(("storm", 100, *self.plugins, pause), "-c", *options)
                check(len(walker.calls) == 200, f"{len(walker.calls)} calls")
                # The number of pages alone cannot tell two plugins of one size from each other: it is the linker that
                # does. So without its probe only that stacks are there is demanded.
                if not options:
                    self.check_plugins(target, walker)
                    self.check_places(target)
                    check(walker.counters["linker_events"] >= 400, f"{walker.counters}")
                check(walker.counters["publications"] > 1, f"{walker.counters}")

    def stays(self):
        """A plugin that comes is walked in the kernel before long."""
        target, walker = self.run(("stays", 60, self.plugins[0], 2000), "-c")
        self.check_plugins(target, walker)
        check(walker.calls[-1]["kernel"]["reason"] == IN_KERNEL, f"{walker.calls[-1]['kernel']}")
        check(walker.calls[-1]["kernel"]["status"] == COMPLETE, f"{walker.calls[-1]['kernel']}")

    def exec_loop(self):
        target, walker = self.run(("exec", 20), "-c")
        check(len(walker.calls) == 21, f"{len(walker.calls)} calls")
        for call in walker.calls:
            for name in ("kernel", "user"):
                self.check_stack(call[name], target.truth[call["number"]], f"{name} {call['number']}")
        check(walker.counters["publications"] >= 2, f"{walker.counters}")

    def forks(self):
        """Children are unknown until they are added; what there is of them is true."""
        target, walker = self.run(("fork", 10), "-c", "-a")
        check(len(walker.calls) == 20, f"{len(walker.calls)} calls")
        for call in walker.calls:
            for name in ("kernel", "user"):
                self.check_stack(call[name], target.truth[call["number"]], f"{name} {call['number']}")
                if call["pid"] == target.pid:
                    check(call[name].get("status") == COMPLETE, f"{call[name]}")
        _, walker = self.run(("fork", 10))
        check(walker.counters["reasons"]["the process is not known"] == 10, f"{walker.counters}")

    def four(self):
        targets = [Target(self.target, "depth", 10 + 5 * i, 200) for i in range(4)]
        try:
            walker = Walker(self.user, targets, file=self.target)
            for target in targets:
                target.go()
            for target in targets:
                target.wait()
            walker.end()
        finally:
            for target in targets:
                target.end()
        by_pid = {target.pid: target for target in targets}
        check(len(walker.calls) == 800, f"{len(walker.calls)} calls")
        for call in walker.calls:
            stack = call["kernel"]
            check(stack.get("status") == COMPLETE and stack["pid"] == call["pid"], f"{stack}")
            self.check_stack(stack, by_pid[call["pid"]].truth[call["number"]], call["number"])

    def generations(self):
        """Their numbers wrap around: the cache is emptied, and everything works on."""
        target, walker = self.run(("storm", 60, *self.plugins, 3000), "-c", "-g", 65533)
        self.check_plugins(target, walker)
        check(walker.counters["publications"] > 1, f"{walker.counters}")
        target, walker = self.run(("stays", 60, self.plugins[0], 2000), "-c", "-g", 65535)
        self.check_plugins(target, walker)
        check(walker.calls[-1]["kernel"]["reason"] == IN_KERNEL, f"{walker.calls[-1]['kernel']}")


def main():
    bpf_support.require_bpf()
    test = Test(*sys.argv[1:5])
    for subject in sys.argv[5:]:
        try:
            getattr(test, subject)()
        except Failure as failure:
            print(f"{subject}: {failure}")
            return 1
        print(f"{subject}: ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
