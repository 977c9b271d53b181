#include "go_asm.h"
#include "textflag.h"

#define SYS_rt_sigprocmask 14
#define SYS_clone 56
#define SYS_exit 60
#define SYS_clock_gettime 228
#define SYS_clock_nanosleep 230
#define SIG_SETMASK 2
#define CLOCK_MONOTONIC 1
#define TIMER_ABSTIME 1
#define longBracket 19	// 2^19 ticks, about 0.2 ms: something came between the two readings

// func begin(a *area, top uintptr, flags uintptr) int
//
// All signals are blocked while the thread is made, so that it is born with them
// blocked: a handler of Go's on a thread that is none of Go's would be its end.
TEXT ·begin(SB), NOSPLIT, $0-32
	MOVQ a+0(FP), R12
	MOVQ $SIG_SETMASK, DI
	LEAQ area_full(R12), SI
	LEAQ area_mask(R12), DX
	MOVQ $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL

	MOVQ flags+16(FP), DI
	MOVQ top+8(FP), SI
	LEAQ area_tid(R12), DX
	LEAQ area_tid(R12), R10
	XORL R8, R8
	MOVL $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JNZ  parent
	JMP  ·loop(SB)

parent:
	MOVQ AX, R13
	MOVQ $SIG_SETMASK, DI
	LEAQ area_mask(R12), SI
	XORL DX, DX
	MOVQ $8, R10
	MOVL $SYS_rt_sigprocmask, AX
	SYSCALL
	MOVQ R13, ret+24(FP)
	RET

// loop is the thread. R12 is its area; nothing else is known to it. It keeps to
// registers that a C function preserves: R12, R13, RBX.
TEXT ·loop(SB), NOSPLIT|NOFRAME, $0-0
	SUBQ $64, SP	// clear of the end of the stack, and aligned to 16

	// Until next.
sleep:
	MOVQ area_next(R12), AX
	XORL DX, DX
	MOVQ $1000000000, CX
	DIVQ CX
	MOVQ AX, area_ts(R12)
	MOVQ DX, (area_ts+8)(R12)
	MOVQ $CLOCK_MONOTONIC, DI
	MOVQ $TIMER_ABSTIME, SI
	LEAQ area_ts(R12), DX
	XORL R10, R10
	MOVL $SYS_clock_nanosleep, AX
	SYSCALL
	MOVL area_stop(R12), CX
	TESTL CX, CX
	JNZ  exit

	// When it woke, and the counter before and after.
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	MOVQ AX, R13
	MOVQ $CLOCK_MONOTONIC, DI
	LEAQ area_ts(R12), SI
	MOVQ area_gettime(R12), AX
	TESTQ AX, AX
	JZ   plain
	CALL AX
	JMP  read
plain:
	MOVL $SYS_clock_gettime, AX
	SYSCALL
read:
	LFENCE
	RDTSC
	SHLQ $32, DX
	ORQ  DX, AX
	SUBQ R13, AX
	SHRQ $longBracket, AX
	JZ   whole
	XORL R13, R13
whole:
	MOVQ area_ts(R12), AX
	IMULQ $1000000000, AX
	ADDQ (area_ts+8)(R12), AX	// now

	// Note it; the count comes last.
	MOVQ area_count(R12), DX
	MOVQ DX, CX
	ANDQ $const_ringMask, CX
	SHLQ $5, CX	// the size of a note
	LEAQ area_notes(R12), BX
	ADDQ CX, BX
	MOVQ area_next(R12), CX
	MOVQ CX, note_due(BX)
	MOVQ AX, note_woke(BX)
	MOVQ R13, note_tsc(BX)
	INCQ DX
	MOVQ DX, area_count(R12)

	// The next time after now on the grid of periods. The clock may be a little
	// behind the kernel's, so that it woke before its time.
	MOVQ CX, BX
	MOVQ area_period(R12), CX
	ADDQ CX, BX
	CMPQ AX, BX
	JLT  set
	SUBQ BX, AX
	XORL DX, DX
	DIVQ CX
	INCQ AX
	IMULQ CX, AX
	ADDQ AX, BX
set:
	MOVQ BX, area_next(R12)
	JMP  sleep

exit:
	XORL DI, DI
	MOVL $SYS_exit, AX
	SYSCALL
	INT  $3
