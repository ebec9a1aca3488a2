// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause

// C code called from Go: runtime.asmcgocall runs it on the thread's system stack, where the scheduler has left its own
// return addresses.
//
// Prints "ready PID", waits for a line, leaks blocks of 1001 bytes by leaks_in_c, prints "done", and waits in waits_in_c.
package main

/*
#include <stdlib.h>
#include <unistd.h>

static void *volatile kept;

__attribute__((noinline)) static void leaks_in_c(void)
{
	kept = malloc(1001);
}

__attribute__((noinline)) static int waits_in_c(void)
{
	char byte;
	int got = read(STDIN_FILENO, &byte, 1);

	__asm__ volatile("" ::: "memory");
	return got;
}
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"time"
)

//go:noinline
func leak() {
	C.leaks_in_c()
	time.Sleep(time.Millisecond) // the scheduler runs on the system stack
	runtime.Gosched()
}

func main() {
	runtime.LockOSThread()
	fmt.Printf("ready %d\n", os.Getpid())
	C.waits_in_c()
	for i := 0; i < 200; i++ {
		leak()
	}
	fmt.Println("done")
	for C.waits_in_c() > 0 {
	}
}
