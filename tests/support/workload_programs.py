# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Compiled programs under load: servers, compilers, tools, and programs made for one case."""

import os
import pathlib
import shutil
import socket
import subprocess

from workload import (
    BUSY_TICKS, Load, WorkloadError, child_pids, comm, cpu_ticks, descendants_of, free_port, thread_count,
    wait_for,
)


class Sqlite(Load):
    """Joins, recursive queries, sorting, JSON and aggregation in memory."""

    needs = ("/usr/bin/sqlite3",)

    SETUP = """
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
  INSERT INTO t SELECT i, hex(randomblob(8)), abs(random() % 1000) / 7.0 FROM n;
CREATE INDEX tb ON t(b);
"""
    WORK = """
SELECT count(*) FROM (SELECT b, sum(c) OVER (ORDER BY b) s FROM t ORDER BY c DESC, b) WHERE s > 3;
SELECT count(DISTINCT json_extract(json_object('k', b, 'v', c), '$.k')) FROM t WHERE b LIKE '%A_F%';
WITH RECURSIVE f(x, y) AS (SELECT 0, 1 UNION ALL SELECT y, x + y % 1000 FROM f LIMIT 30000) SELECT max(x) FROM f;
SELECT group_concat(b, ',') FROM (SELECT b FROM t WHERE a IN (SELECT a % 977 FROM t) GROUP BY b HAVING count(*) > 0);
UPDATE t SET c = c + 1 WHERE b GLOB '*7*';
"""

    def begin(self):
        script = self.script("load.sql", self.SETUP + self.WORK * 2000)
        self.run("/usr/bin/sqlite3", ":memory:", stdin=script.open("rb"))


class Redis(Load):
    """A server with I/O threads and Lua, driven by redis-benchmark over a unix socket."""

    needs = ("/usr/bin/redis-server", "/usr/bin/redis-benchmark")

    def begin(self):
        path = self.folder / "socket"
        self.run(
            "/usr/bin/redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--io-threads", "3",
            "--io-threads-do-reads", "yes", "--dir", self.folder, "--daemonize", "no",
        )  # fmt: skip
        wait_for(lambda: self.check_alive() or path.exists(), "redis-server's socket")
        script = (
            "local t = {} for i = 1, 60 do t[i] = tostring(i * 7 % 13) .. KEYS[1] end table.sort(t) "
            "local s = cjson.encode(t) redis.call('set', KEYS[1], s) "
            "return #cjson.decode(redis.call('get', KEYS[1]))"
        )
        base = ("/usr/bin/redis-benchmark", "-s", path, "-n", "100000000", "-q")
        self.run(*base, "-c", "20", "-r", "1000", "eval", script, "1", "key:__rand_int__")
        self.run(*base, "-c", "30", "-r", "10000", "-d", "200", "-t", "set,lpush,zadd,lrange_300,mset")

    def is_busy(self, pid):
        return super().is_busy(pid) and thread_count(pid) > 4


class Nginx(Load):
    """Two workers with gzip, rewriting and directory listings, driven by ab over loopback; master and workers."""

    needs = ("/usr/sbin/nginx", "/usr/bin/ab")

    def begin(self):
        port = free_port()
        www = self.folder / "www"
        www.mkdir()
        for i in range(50):
            (www / f"page{i}.html").write_text(f"<p>{i} " + "some text to compress " * 800)
        os.chmod(self.folder, 0o755)
        config = self.script(
            "nginx.conf",
            f"""
daemon off; worker_processes 2; pid {self.folder}/pid; error_log stderr error;
events {{ worker_connections 256; }}
http {{
  access_log {self.folder}/access.log; client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/fastcgi; uwsgi_temp_path {self.folder}/uwsgi; scgi_temp_path {self.folder}/scgi;
  types {{ text/html html; }}
  gzip on; gzip_comp_level 9;
  server {{
    listen 127.0.0.1:{port}; root {www};
    location ~ ^/any/(?<n>[0-9]+)[a-z]*$ {{ rewrite ^/any/([0-9]+) /page$1.html last; }}
    location /list/ {{ alias {www}/; autoindex on; }}
  }}
}}
""",
        )
        self.run("/usr/sbin/nginx", "-e", "stderr", "-p", self.folder, "-c", config)

        def answers():
            self.check_alive()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers, "nginx answers")
        for path, connections in (("any/7abc", 8), ("list/", 4), ("page9.html", 4)):
            self.run(
                "/usr/bin/ab", "-q", "-k", "-t", "1000", "-n", "100000000", "-c", connections,
                "-H", "Accept-Encoding: gzip", f"http://127.0.0.1:{port}/{path}",
            )  # fmt: skip

    def find_pids(self):
        master = self.processes[0].pid
        workers = child_pids(master)
        return [master, *workers] if len(workers) == 2 else []

    def is_busy(self, pid):
        return pid == self.processes[0].pid or super().is_busy(pid)


class Gdb(Load):
    """A debugger that reads symbols and evaluates expressions, again and again."""

    needs = ("/usr/bin/gdb",)

    def begin(self):
        script = self.script(
            "load.gdb",
            "set pagination off\nset $i = 0\nwhile $i < 1000000\n  file /usr/bin/gdb\n"
            "  info functions regex_never_there\n  python sum(i * i for i in range(20000))\n"
            "  info types never_there\n  file /usr/bin/redis-server\n  set $i = $i + 1\nend\n",
        )
        self.run("/usr/bin/gdb", "-nx", "-batch", "-x", script)


class Openssl(Load):
    """Hand-written assembly with the CFI that perlasm makes."""

    needs = ("/usr/bin/openssl",)

    def begin(self):
        script = (
            "while :; do for a in rsa2048 ecdsap256 ed25519 x25519; do openssl speed -seconds 1 $a; done; "
            "for c in aes-128-gcm chacha20-poly1305 sha256 sha512; do openssl speed -seconds 1 -evp $c; done; done"
        )
        self.run("/bin/sh", "-c", script)

    def find_pids(self):
        return child_pids(self.processes[0].pid)[:1]

    def is_busy(self, pid):
        return cpu_ticks(pid) >= 3


class Bash(Load):
    """The shell in loops, expansions, recursion and command substitution."""

    needs = ("/bin/bash",)

    SOURCE = r"""
f() { if (( $1 == 0 )); then REPLY=${x//[a-c]/z}; else local x="$x$1abc"; f $(( $1 - 1 )); fi; }
while :; do
  x=start; f 30
  for i in {1..200}; do a[i]="${REPLY:i:5}"; [[ ${a[i]} =~ ([0-9]+)z ]] && printf -v b '%s-%05d' "${BASH_REMATCH[1]}" "$i"; done
  eval 'case $b in *9*) c=1;; *) c=2;; esac'
  read -r -a words <<< "$REPLY $b $c"
done
"""

    def begin(self):
        self.run("/bin/bash", self.script("load.sh", self.SOURCE))


class Xz(Load):
    """A multithreaded compressor."""

    needs = ("/usr/bin/xz",)

    def begin(self):
        self.run("/usr/bin/xz", "-9", "-e", "-T3", "--block-size=1MiB", "-c", stdin=open("/dev/urandom", "rb"))


class Postgres(Load):
    """A database server and its backends, driven by pgbench over a unix socket, as an ordinary user."""

    needs = ("/usr/lib/postgresql/15/bin/postgres", "/usr/bin/setpriv")
    USER = "postgres"

    def begin(self):
        programs = pathlib.Path(self.needs[0]).parent
        data = self.folder / "data"
        os.chmod(self.folder, 0o755)
        data.mkdir()
        shutil.chown(data, self.USER)
        as_user = ("/usr/bin/setpriv", f"--reuid={self.USER}", f"--regid={self.USER}", "--clear-groups", "--")
        made = subprocess.run(
            [*as_user, programs / "initdb", "-D", data, "-A", "trust", "-U", self.USER, "-N"],
            stdout=self.log, stderr=self.log, check=False,
        )  # fmt: skip
        if made.returncode != 0:
            raise WorkloadError(f"initdb failed:\n{self.said()}")
        self.run(*as_user, programs / "postgres", "-D", data, "-k", data, "-h", "", "-c", "fsync=off")
        wait_for(lambda: self.check_alive() or list(data.glob(".s.PGSQL.5432")), "postgres' socket")
        script = self.script(
            "work.sql",
            "SELECT count(*), sum(length(md5(i::text))) FROM generate_series(1, 3000) i JOIN generate_series(1, 3000) j"
            " ON i % 7 = j % 11 AND j < 40 WHERE i::text ~ '[1-3].*9';\n"
            "SELECT jsonb_agg(jsonb_build_object('a', i, 'b', sqrt(i))) FROM generate_series(1, 2000) i;\n"
            "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM t WHERE n < 3000) SELECT sum(n) FROM t;\n",
        )
        os.chmod(script, 0o644)
        self.run(
            *as_user, programs / "pgbench", "-h", data, "-U", self.USER, "-n", "-f", script, "-c", "2", "-T", "1000",
            "postgres",
        )  # fmt: skip

    def find_pids(self):
        server = self.processes[0].pid
        children = child_pids(server)
        return [server, *children] if len(children) >= 6 else []

    def is_busy(self, pid):
        # The helpers mostly wait; the two backends work.
        backends = sorted(child_pids(self.processes[0].pid), key=cpu_ticks)[-2:]
        return pid not in backends or cpu_ticks(pid) >= BUSY_TICKS


class Vim(Load):
    """An editor that runs its own script."""

    needs = ("/usr/bin/vim",)

    SOURCE = r"""
function! Fib(n)
  return a:n < 2 ? a:n : Fib(a:n - 1) + Fib(a:n - 2)
endfunction
while 1
  call setline(1, map(range(500), 'v:val . " some text " . v:val * 7'))
  %s/\v(\d+) some (text)/\2 \1 \=submatch(1)/e
  sort! /\d\+/
  call Fib(12)
  g/7$/normal dd
endwhile
"""

    def begin(self):
        self.run("/usr/bin/vim", "-u", "NONE", "-es", "-S", self.script("load.vim", self.SOURCE))


class Gcc(Load):
    """The C++ compiler proper."""

    needs = ("/usr/bin/g++",)

    SOURCE = """
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <regex>
#include <string>
std::map<std::string, std::function<int(int)>> table;
template <int N> int f(int x) { table[std::to_string(N)] = [x](int y) { return x + y * N; }; return f<N - 1>(x + N); }
template <> int f<0>(int x) { return x; }
int main(int c, char **v) { std::regex r("a(b|c)*d"); std::cout << f<200>(c) << std::regex_match(v[0], r); }
"""

    def begin(self):
        source = self.script("load.cc", self.SOURCE)
        self.run("/bin/sh", "-c", f"while :; do /usr/bin/g++ -O2 -S -o /dev/null {source}; done")

    def find_pids(self):
        return [pid for pid, _ in descendants_of(self.processes[0].pid) if comm(pid) == "cc1plus"][:1]

    def is_busy(self, pid):
        return cpu_ticks(pid) >= 5


class Clang(Gcc):
    """The other C++ compiler: libLLVM and libclang-cpp, the largest files with CFI that most machines have."""

    needs = ("/usr/bin/clang++",)

    def begin(self):
        source = self.script("load.cc", self.SOURCE)
        self.run("/bin/sh", "-c", f"while :; do /usr/bin/clang++ -O2 -S -o /dev/null {source}; done")

    def find_pids(self):
        found = [pid for pid, _ in descendants_of(self.processes[0].pid) if comm(pid).startswith("clang")]
        return [pid for pid in found if not child_pids(pid)][:1]


class Ffmpeg(Load):
    """Encoders with hand-written SIMD code and aligned stacks, in many threads."""

    needs = ("/usr/bin/ffmpeg",)

    def begin(self):
        self.run(
            "/usr/bin/ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=30",
            "-f", "lavfi", "-i", "anoisesrc", "-map", "0:v", "-c:v", "libx265", "-x265-params", "log-level=error",
            "-map", "0:v", "-c:v:1", "libx264", "-map", "1:a", "-c:a", "aac", "-f", "null", "-",
        )  # fmt: skip


class Ripgrep(Load):
    """Rust, statically linked, several threads."""

    needs = ("/usr/bin/rg",)

    def begin(self):
        self.run("/bin/sh", "-c", "while :; do /usr/bin/rg -c --no-ignore -uuu 'a(b|c)+[d-f]{3,9}x' /usr/lib /usr/share; done")

    def find_pids(self):
        return child_pids(self.processes[0].pid)[:1]

    def is_busy(self, pid):
        return cpu_ticks(pid) >= 5


class Restic(Load):
    """Go: its own stacks, its own CFI."""

    needs = ("/usr/bin/restic",)

    def begin(self):
        environment = {
            "PATH": "/usr/bin:/bin", "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": str(self.folder / "repository"),
            "HOME": str(self.folder),
        }  # fmt: skip
        self.run(
            "/bin/sh", "-c", "restic init && while :; do restic backup --force /usr/lib/x86_64-linux-gnu; done",
            env=environment,
        )  # fmt: skip

    def find_pids(self):
        return [pid for pid in child_pids(self.processes[0].pid) if comm(pid) == "restic"][:1]

    def is_busy(self, pid):
        return thread_count(pid) > 3 and cpu_ticks(pid) >= BUSY_TICKS


class StressNg(Load):
    """Many small C loops, one process each."""

    needs = ("/usr/bin/stress-ng",)

    def begin(self):
        self.run(
            "/usr/bin/stress-ng", "--temp-path", self.folder, "--qsort", "1", "--matrix", "1", "--zlib", "1", "--hsearch",
            "1", "--stack", "1", "--sigsegv", "1", "--timer", "1", "--pthread", "1",
        )  # fmt: skip

    def find_pids(self):
        children = child_pids(self.processes[0].pid)
        return children if len(children) >= 8 else []

    def is_busy(self, pid):
        return True


class AtReturn(Load):
    """Held at a `ret` of code without CFI, behind the `pop %rbp`: rbp is the caller's already."""

    needs = ("/usr/bin/cc", "/usr/bin/gdb")

    SOURCE = r"""
__asm__(".globl leaf, at_return\n"
        "leaf: push %rbp\n mov %rsp, %rbp\n pop %rbp\n"
        "at_return: ret");
void leaf(void);
__attribute__((noinline)) void middle(void) { leaf(); __asm__ volatile(""); }
int main(void) { for (;;) middle(); }
"""

    def begin(self):
        program = self.folder / "at_return"
        source = self.script("at_return.c", self.SOURCE)
        no_cfi = ("-fno-omit-frame-pointer", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables")
        subprocess.run(["/usr/bin/cc", "-O1", *no_cfi, "-o", program, source], check=True)
        pid = self.run(program).pid
        wait_for(lambda: cpu_ticks(pid) > 0, "at_return does not run")
        commands = ("break *at_return", "continue", f"shell kill -STOP {pid}", "delete", "detach")
        gdb = ["/usr/bin/gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off", "-p", str(pid)]
        for command in commands:
            gdb += ["-ex", command]
        subprocess.run(gdb, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, check=True)

    def is_busy(self, pid):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
