package kernel

import (
	"fmt"
	"runtime"
	"syscall"
)

// boxPort is where a closed box says all that it has to say: a port of the PC's
// bus behind which QEMU's isa-debugcon takes a byte at a time. Writing to it
// raises no interrupt, can never be told to wait, and takes the guest as long as
// any instruction does.
const boxPort = 0xe9

// outBytes writes n bytes to a port, by one repeated instruction. The thread
// must have been allowed to.
//
//go:noescape
func outBytes(port uint16, p *byte, n int)

// portWriter writes to a port. Only process 1 of a closed box uses it.
type portWriter uint16

// Write asks for the right to use ports and gives it back: it belongs to the
// thread, and Go's threads serve whoever comes.
func (w portWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Iopl(3); err != nil {
		return 0, fmt.Errorf("use port %#x: %w", uint16(w), err)
	}
	defer func() { _ = syscall.Iopl(0) }()
	outBytes(uint16(w), &p[0], len(p))
	return len(p), nil
}
