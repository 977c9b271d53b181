package rtnl

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An interface is deaf that throws away all that arrives, before anybody sees
// it: neither captures nor its counters of protocols do. It is done by a program
// of two instructions at its ingress (XDP in generic mode), because that touches
// nothing else: a filter would need a hook, and whoever adds a hook to an
// interface empties its queueing disciplines; and where hooks share a block, as
// on a PE's core links, they cannot have filters of their own.

// The program, in the kernel's instruction set (linux/bpf.h).
const (
	bpfMoveImmediate = 0xb7 // BPF_ALU64 | BPF_MOV | BPF_K, register 0
	bpfExit          = 0x95
	xdpDrop          = 1
)

type bpfInstruction struct {
	code      uint8
	_         uint8 // registers
	_         int16 // offset
	immediate int32
}

// bpfProgram is what BPF_PROG_LOAD takes, as far as we have something to say.
type bpfProgram struct {
	kind, count           uint32
	instructions, license uint64
	_                     [88]byte // all else is zero
}

// dropAll is the program, loaded once; it stays for as long as we do.
var dropAll = sync.OnceValues(func() (fd int, err error) {
	code := &[2]bpfInstruction{{code: bpfMoveImmediate, immediate: xdpDrop}, {code: bpfExit}}
	license := &[4]byte{'G', 'P', 'L'}
	var pin runtime.Pinner // the kernel is given their addresses as numbers
	defer pin.Unpin()
	pin.Pin(code)
	pin.Pin(license)
	p := bpfProgram{
		kind: unix.BPF_PROG_TYPE_XDP, count: uint32(len(code)),
		instructions: uint64(uintptr(unsafe.Pointer(code))), license: uint64(uintptr(unsafe.Pointer(license))),
	}
	r, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&p)), unsafe.Sizeof(p))
	if errno != 0 {
		return -1, fmt.Errorf("load a program that drops packets: %w", os.NewSyscallError("bpf", errno))
	}
	unix.CloseOnExec(int(r))
	return int(r), nil
})

// PrepareDeaf does what Deafen needs to have been done once.
func PrepareDeaf() error {
	_, err := dropAll()
	return err
}

// Attributes of IFLA_XDP that package nl lacks (linux/if_link.h).
const (
	xdpFD       = 1
	xdpAttached = 2
	xdpFlags    = 3
	xdpGeneric  = 1 << 1 // XDP_FLAGS_SKB_MODE
)

// Deafen makes an interface deaf; one that is stays so. PrepareDeaf has been
// called.
func (b *Batch) Deafen(index int, dev string, opts ...Option) {
	fd, _ := dropAll()
	b.xdp("deafen", index, dev, fd, opts)
}

// Undeafen has an interface hear again; one that hears is left alone.
func (b *Batch) Undeafen(index int, dev string, opts ...Option) {
	b.xdp("undeafen", index, dev, -1, opts)
}

func (b *Batch) xdp(verb string, index int, dev string, fd int, opts []Option) {
	b.begin(verb, LinkChange{Index: index, Name: dev}, unix.RTM_SETLINK, 0, opts)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	b.body(msg.Serialize())
	at := b.nest(unix.IFLA_XDP | unix.NLA_F_NESTED)
	b.u32(xdpFD, uint32(fd))
	b.u32(xdpFlags, xdpGeneric)
	b.endNest(at)
	b.end()
}

// setXDP says whether a program of ours, or anybody's, stands at the ingress.
func (l *LinkInfo) setXDP(typ uint16, v []byte) {
	if typ == xdpAttached {
		l.Deaf = number(v) != 0
	}
}
