#include "go_asm.h"
#include "textflag.h"

#define SYS_clock_gettime 228
#define longBracket 19	// a system call of 2^19 ticks was interrupted: what it said is old
#define mostLimit (1<<28)	// ticks, about a tenth of a second
#define longGap (1<<29)
#define longBase 44	// 2^44 ticks: an hour or two
#define farAhead 1000000	// ns

// BASE makes this system call the one that the rate is reckoned from; CX is lost.
#define BASE \
	MOVQ R8, ·line+state_baseTSC(SB) \
	MOVQ R10, ·line+state_baseMono(SB) \
	MOVQ R9, CX \
	SUBQ R8, CX \
	MOVQ CX, ·line+state_bracket(SB)

// TSC reads the counter into AX; DX is lost.
#define TSC \
	LFENCE \
	RDTSC \
	SHLQ $32, DX \
	ORQ DX, AX

// gettime has the conventions of C: DI clock, SI *timespec; AX, CX, DX, DI, SI
// and R8 to R11 are its own. It uses no stack. The runtime calls it on its
// system stack and in signal handlers, too; a handler that comes while its own
// thread changes the line finds seq odd.
TEXT ·gettime(SB), NOSPLIT|NOFRAME, $0-0
	CMPL DI, $1
	JNE  other
again:
	MOVQ ·line+state_seq(SB), R8
	TESTQ $1, R8
	JNZ  plain
	MOVQ ·line+state_tsc(SB), R9
	MOVQ ·line+state_mono(SB), R10
	MOVQ ·line+state_mult(SB), R11
	MOVQ ·line+state_limit(SB), CX
	TSC
	SUBQ R9, AX
	CMPQ AX, CX
	JCC  look
	IMULQ R11, AX
	SHRQ $32, AX
	ADDQ R10, AX
	CMPQ R8, ·line+state_seq(SB)
	JNE  again

	// AX, in ns, is the answer.
give:
	XORL DX, DX
	MOVQ $1000000000, CX
	DIVQ CX
	MOVQ AX, 0(SI)
	MOVQ DX, 8(SI)
	XORL AX, AX
	RET

plain:
	MOVL $SYS_clock_gettime, AX
	SYSCALL
	RET

	// The line has come to its limit: look at the kernel's clock. One thread does.
look:
	MOVQ R8, AX
	LEAQ 1(R8), CX
	LOCK
	CMPXCHGQ CX, ·line+state_seq(SB)
	JNE  plain
	TSC
	MOVQ AX, ·line+state_before(SB)
	MOVL $SYS_clock_gettime, AX
	SYSCALL
	TSC
	MOVQ AX, R9	// TSC after
	MOVQ ·line+state_before(SB), R8
	MOVQ 0(SI), R10
	IMULQ $1000000000, R10
	ADDQ 8(SI), R10	// what the kernel says
	MOVQ ·line+state_mult(SB), R11	// the rate until now
	MOVQ R11, DI	// and from now on

	// The rate.
	MOVQ ·line+state_baseTSC(SB), DX
	TESTQ DX, DX
	JZ   jump
	MOVQ R9, CX
	SUBQ DX, CX
	MOVQ CX, AX
	SHRQ $longBase, AX
	JNZ  rebase
	MOVQ R10, AX
	SUBQ ·line+state_baseMono(SB), AX
	MOVQ AX, DX
	SHLQ $32, AX
	SHRQ $32, DX
	CMPQ DX, CX
	JCC  rebase	// no such rate
	DIVQ CX
	CMPQ AX, DI
	CMOVQHI AX, DI
	JMP  compare
rebase:
	BASE

	// Where the line was before and after the system call.
compare:
	MOVQ R8, AX
	SUBQ ·line+state_tsc(SB), AX
	JCS  jump
	CMPQ AX, $longGap
	JHI  gap
	MULQ R11
	SHRQ $32, DX, AX
	ADDQ ·line+state_mono(SB), AX
	SUBQ R10, AX
	JLE  behind
	CMPQ AX, $farAhead
	JGT  jump
	// It is ahead.
	BASE
	MOVQ R11, CX
	SHRQ $12, CX
	MOVQ R11, DI
	SUBQ CX, DI
behind:
	MOVQ R9, AX
	SUBQ ·line+state_tsc(SB), AX
	MULQ R11
	SHRQ $32, DX, AX
	ADDQ ·line+state_mono(SB), AX
	JMP  higher

	// Nobody has read the line for long: nobody was given more than at its limit.
	// After a long bracket the next who reads looks again.
gap:
	MOVQ ·line+state_limit(SB), AX
	IMULQ R11, AX
	SHRQ $32, AX
	ADDQ ·line+state_mono(SB), AX
	CMPQ AX, R10
	CMOVQLT R10, AX
	MOVQ R9, DX
	SUBQ R8, DX
	SHRQ $longBracket, DX
	JZ   set
	XORL CX, CX
	JMP  store
higher:
	CMPQ AX, R10
	CMOVQLT R10, AX
	JMP  set
jump:
	BASE
	MOVQ R10, AX

set:
	// One that took much less time is a better base.
	MOVQ R9, DX
	SUBQ R8, DX
	SHLQ $2, DX
	CMPQ DX, ·line+state_bracket(SB)
	JCC  limit
	BASE
limit:
	MOVQ R9, CX
	SUBQ ·line+state_baseTSC(SB), CX
	SHRQ $3, CX
	MOVQ $mostLimit, DX
	CMPQ CX, DX
	CMOVQHI DX, CX
store:
	MOVQ R9, ·line+state_tsc(SB)
	MOVQ AX, ·line+state_mono(SB)
	MOVQ DI, ·line+state_mult(SB)
	MOVQ CX, ·line+state_limit(SB)
	ADDQ $1, ·line+state_seq(SB)
	JMP  give

other:
	TESTL DI, DI
	JNZ  plain
	// CLOCK_REALTIME, by the same line.
	MOVQ ·line+state_seq(SB), R8
	TESTQ $1, R8
	JNZ  plain
	MOVQ ·line+state_tsc(SB), R9
	MOVQ ·line+state_mono(SB), R10
	MOVQ ·line+state_mult(SB), R11
	MOVQ ·line+state_limit(SB), CX
	TSC
	SUBQ R9, AX
	CMPQ AX, CX
	JCC  plain
	ADDQ AX, R9	// TSC now
	IMULQ R11, AX
	SHRQ $32, AX
	ADDQ R10, AX
	CMPQ R8, ·line+state_seq(SB)
	JNE  other
	MOVQ R9, CX
	SUBQ ·line+state_realTSC(SB), CX
	SHRQ $32, CX
	JNZ  date
	ADDQ ·line+state_real(SB), AX
	JMP  give
date:
	MOVQ AX, R8
	MOVL $SYS_clock_gettime, AX
	SYSCALL
	MOVQ 0(SI), R10
	IMULQ $1000000000, R10
	ADDQ 8(SI), R10
	SUBQ R8, R10
	MOVQ R10, ·line+state_real(SB)
	MOVQ R9, ·line+state_realTSC(SB)
	XORL AX, AX
	RET

// func entry() uintptr
TEXT ·entry(SB), NOSPLIT, $0-8
	LEAQ ·gettime(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func counter() uint64
TEXT ·counter(SB), NOSPLIT, $0-8
	TSC
	MOVQ AX, ret+0(FP)
	RET

// func cpuid(leaf uint32) (a, d uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-16
	MOVL leaf+0(FP), AX
	XORL CX, CX
	CPUID
	MOVL AX, a+8(FP)
	MOVL DX, d+12(FP)
	RET
