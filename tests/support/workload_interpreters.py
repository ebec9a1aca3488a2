# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Interpreters and virtual machines under load: frames of C, of generated code, and of stacks that they switch."""

from workload import Load, cpu_ticks, thread_count


class Python(Load):
    """The interpreter in deep recursion, C callbacks, threads, regular expressions, json and sorting."""

    needs = ("/usr/bin/python3",)

    SOURCE = r"""
import collections, functools, hashlib, json, random, re, threading, zlib
random.seed(7)
words = ["".join(random.choices("abcdefgh", k=9)) for _ in range(2000)]

@functools.total_ordering
class Key:
    def __init__(self, word): self.word = word
    def __lt__(self, other): return self.word < other.word
    def __eq__(self, other): return self.word == other.word

def deep(n):
    return sorted(words[:40], key=Key)[0] if n == 0 else functools.reduce(lambda a, b: deep(n - 1), [1, 2])

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def work():
    while True:
        text = json.dumps({w: [fib(7), w] for w in words[:300]}, default=str)
        json.loads(text, object_pairs_hook=lambda pairs: collections.OrderedDict(pairs))
        re.sub("[a-d]+", lambda m: m.group().upper(), text)
        zlib.crc32(zlib.compress(text.encode(), 9)); hashlib.sha256(text.encode() * 50).hexdigest()
        deep(6); fib(15)

for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
work()
"""

    def begin(self):
        self.run("/usr/bin/python3", self.script("load.py", self.SOURCE))

    def is_busy(self, pid):
        return super().is_busy(pid) and thread_count(pid) == 4


class Perl(Load):
    """Regular expressions with code in them, sort callbacks, recursion, string eval."""

    needs = ("/usr/bin/perl",)

    SOURCE = r"""
use strict; use warnings; no warnings 'recursion';
use List::Util qw(reduce); use Digest::SHA qw(sha256_hex);
sub ack { my ($m, $n) = @_; return $n + 1 unless $m; return ack($m - 1, 1) unless $n; ack($m - 1, ack($m, $n - 1)) }
my @words = map { sha256_hex($_) } 1 .. 800;
while (1) {
    my @sorted = sort { reverse($a) cmp reverse($b) } @words;
    my $joined = join ' ', grep { /([0-9]+)[a-f](?{ length $1 })/ } @sorted;
    $joined =~ s/([a-f]+)/sprintf("%s", uc $1)/ge;
    my $sum = reduce { $a ^ length $b } 0, @sorted;
    eval "sub { ack(2, 5) + $_ }->()" for 1 .. 20;
    my %count; $count{$_}++ for $joined =~ /(..)/g;
}
"""

    def begin(self):
        self.run("/usr/bin/perl", self.script("load.pl", self.SOURCE))


class Node(Load):
    """JavaScript in the interpreter and the compilers, native modules (zlib, crypto, JSON, sort) and worker threads."""

    needs = ("/usr/bin/node",)

    SOURCE = r"""
const { Worker, isMainThread } = require('worker_threads');
const zlib = require('zlib'), crypto = require('crypto');
if (isMainThread) { new Worker(__filename); new Worker(__filename); }
const words = Array.from({ length: 3000 }, (_, i) => crypto.createHash('md5').update(String(i)).digest('hex'));
function fib(n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
function work() {
  const text = JSON.stringify(words.map((w, i) => ({ w, i, f: fib(8) })), (k, v) => v);
  JSON.parse(text, (k, v) => v);
  [...words].sort((a, b) => (a < b ? -1 : 1));
  text.replace(/[a-f]+/g, m => m.toUpperCase());
  zlib.gunzipSync(zlib.gzipSync(text));
  zlib.deflate(text, () => {});
  crypto.pbkdf2('a', 'b', 2000, 32, 'sha256', () => {});
  crypto.scryptSync('a', 'b', 32);
  fib(18);
  setImmediate(work);
}
work();
"""

    def begin(self):
        self.run("/usr/bin/node", self.script("load.js", self.SOURCE))


class Java(Load):
    """HotSpot: interpreter, compilers, collector."""

    needs = ("/usr/bin/java",)

    SOURCE = """
import java.util.*;
import java.util.stream.*;
public class Load {
    static int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
    static void work() {
        while (true) {
            Map<String, List<Integer>> m = IntStream.range(0, 20000).boxed().collect(Collectors.groupingBy(i -> "k" + i % 97));
            m.values().parallelStream().mapToInt(l -> l.stream().mapToInt(Integer::intValue).sum()).sum();
            "some text".repeat(500).replaceAll("t(e|x)+", "y").hashCode();
            fib(20);
        }
    }
    public static void main(String[] a) { new Thread(Load::work).start(); work(); }
}
"""

    def begin(self):
        self.run("/usr/bin/java", "-Xmx256m", self.script("Load.java", self.SOURCE))


class Ruby(Load):
    """An interpreter that jumps between C stacks (fibers)."""

    needs = ("/usr/bin/ruby",)

    SOURCE = r"""
def fib(n) = n < 2 ? n : fib(n - 1) + fib(n - 2)
words = (1..2000).map { |i| (i * 7919 % 10007).to_s(36) }
Thread.new { loop { words.sort_by { |w| w.reverse }.map(&:to_sym) } }
loop do
  words.sort { |a, b| a.reverse <=> b.reverse }.join(" ").gsub(/([a-f]+)/) { |m| m.upcase }
  e = Enumerator.new { |y| 50.times { |i| y << fib(i % 12) } }
  20.times { e.next }
  Marshal.load(Marshal.dump(words.group_by(&:size)))
end
"""

    def begin(self):
        self.run("/usr/bin/ruby", self.script("load.rb", self.SOURCE))


class Php(Load):
    """The Zend interpreter with callbacks and pcre's JIT."""

    needs = ("/usr/bin/php",)

    SOURCE = r"""<?php
function fib($n) { return $n < 2 ? $n : fib($n - 1) + fib($n - 2); }
$words = array_map(fn($i) => md5($i), range(1, 2000));
while (true) {
    usort($words, fn($a, $b) => strrev($a) <=> strrev($b));
    $text = preg_replace_callback('/[a-f]+(?=[0-9])/', fn($m) => strtoupper($m[0]), implode(' ', $words));
    json_decode(json_encode(array_count_values(str_split($text, 3)))); fib(18);
}
"""

    def begin(self):
        self.run("/usr/bin/php", self.script("load.php", self.SOURCE))


class Signals(Load):
    """Work inside signal handlers, on the alternate stack, nested, and interrupting leaf functions anywhere."""

    needs = ("/usr/bin/perl",)

    SOURCE = r"""
use strict; use warnings;
use POSIX (); use Time::HiRes qw(setitimer ITIMER_REAL);
my $work = sub { my $x = 0; $x += length(join ',', map { $_ * $_ } 1 .. 300) for 1 .. 20; $x };
# Unsafe on purpose: the handler runs at once, wherever the signal meets the interpreter.
my $nested = sub { $work->() };
POSIX::sigaction(POSIX::SIGUSR1(), POSIX::SigAction->new($nested));
my $action = POSIX::SigAction->new(sub { kill USR1 => $$; $work->() });
$action->safe(0);
POSIX::sigaction(POSIX::SIGALRM(), $action);
setitimer(ITIMER_REAL, 0.003, 0.003);
while (1) { $work->() }
"""

    def begin(self):
        self.run("/usr/bin/perl", self.script("signals.pl", self.SOURCE))

    def is_busy(self, pid):
        return cpu_ticks(pid) >= 3  # before it has crashed
