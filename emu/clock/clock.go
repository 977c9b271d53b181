// Package clock reads the kernel's clocks without a system call in kernels where
// that is dear.
//
// Linux lets programs read its clocks by themselves, by way of the vDSO. User
// Mode Linux does not: each reading is a system call of 70 µs. Go's scheduler
// reads the clock whenever it looks for work and its monitor several times a
// wake-up, so that two of three system calls of a Go program there were readings
// of the clock. The runtime calls the vDSO through a variable, which it lets others
// set; this package puts a function of its own there, which computes the time from
// the processor's time stamp counter (TSC), as the vDSO does elsewhere.
//
// What it gives is never ahead of the kernel's clock by more than a system call
// takes, and as a rule behind it by less than one takes to return; it does not
// go backwards. For this it keeps a line, time over TSC, that is a lower bound:
//
//   - A system call between two readings of the TSC, before and after, says m. When
//     the TSC says after, it is m or later: a point below the truth.
//   - Of two system calls, the time between what they said over the ticks from before
//     the first until after the second is a rate below the truth. It becomes exact as
//     the two move apart.
//   - Of several lower bounds the highest counts. The line is looked at again
//     after an eighth of the time that the rate was learnt in, at most about a tenth
//     of a second, by the reader who comes then.
//   - If it turns out to be ahead of the kernel (whose clock was slowed, say by NTP), it
//     runs slower until it is not; by a millisecond or more, it jumps.
//
// Elsewhere, where the processor does not promise a counter that always runs at
// the same rate, and where reading the clock is cheap anyway, the package leaves all
// as it is. A program that imports it need do nothing more.
package clock

import _ "unsafe" // for go:linkname

// Mono is CLOCK_MONOTONIC in nanoseconds.
func Mono() int64 { return nanotime() }

//go:linkname nanotime runtime.nanotime
func nanotime() int64
