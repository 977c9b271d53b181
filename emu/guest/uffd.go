package guest

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's interface for page faults that user space resolves, as
// linux/userfaultfd.h has it (userfaultfd(2), ioctl_userfaultfd(2)). A
// descriptor belongs to the address space that made it: addresses are of that
// one, whoever uses the descriptor.

const (
	uffdAPIVersion = 0xAA
	uffdMissing    = 1 << 0 // UFFDIO_REGISTER_MODE_MISSING
	uffdWP         = 1 << 1 // UFFDIO_REGISTER_MODE_WP

	uffdEventFault = 0x12 // UFFD_EVENT_PAGEFAULT
	uffdMsgSize    = 32
)

type uffdAPI struct{ api, features, ioctls uint64 }

type uffdRange struct{ start, size uint64 }

type uffdRegister struct {
	uffdRange
	mode, ioctls uint64
}

type uffdCopy struct {
	dst, src, size, mode uint64
	copied               int64
}

type uffdZero struct {
	uffdRange
	mode   uint64
	zeroed int64
}

type uffdProtect struct {
	uffdRange
	mode uint64
}

// uffdRequest is an ioctl's number: direction (2: read, 3: both), argument size,
// type and number (asm-generic/ioctl.h).
func uffdRequest(direction, size, number uintptr) uintptr {
	return direction<<30 | size<<16 | 0xAA<<8 | number
}

var (
	uffdioAPI        = uffdRequest(3, unsafe.Sizeof(uffdAPI{}), 0x3F)
	uffdioRegister   = uffdRequest(3, unsafe.Sizeof(uffdRegister{}), 0x00)
	uffdioUnregister = uffdRequest(2, unsafe.Sizeof(uffdRange{}), 0x01)
	uffdioWake       = uffdRequest(2, unsafe.Sizeof(uffdRange{}), 0x02)
	uffdioCopy       = uffdRequest(3, unsafe.Sizeof(uffdCopy{}), 0x03)
	uffdioZero       = uffdRequest(3, unsafe.Sizeof(uffdZero{}), 0x04)
	uffdioProtect    = uffdRequest(3, unsafe.Sizeof(uffdProtect{}), 0x06)
)

// uffd is a userfaultfd descriptor.
type uffd int

// newUFFD opens one with the features asked for. Faults inside system calls
// count too, which takes privilege (vm.unprivileged_userfaultfd).
func newUFFD(features uint64) (uffd, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("userfaultfd: %w", errno)
	}
	u := uffd(fd)
	arg := uffdAPI{api: uffdAPIVersion, features: features}
	if err := u.ioctl(uffdioAPI, unsafe.Pointer(&arg)); err != nil {
		u.close()
		return -1, fmt.Errorf("userfaultfd: agree on version: %w", err)
	}
	return u, nil
}

func (u uffd) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(u), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func (u uffd) close() error { return unix.Close(int(u)) }

// rangeOf is b's place in this address space.
func rangeOf(b []byte) uffdRange {
	return uffdRange{uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint64(len(b))}
}

// register has faults in r, of this address space, reported.
func (u uffd) register(r uffdRange, mode uint64) error {
	arg := uffdRegister{uffdRange: r, mode: mode}
	if err := u.ioctl(uffdioRegister, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("userfaultfd: register %d bytes: %w", r.size, err)
	}
	return nil
}

// unregister ends that, and lets whoever waits try again.
func (u uffd) unregister(r uffdRange) error {
	if err := u.ioctl(uffdioUnregister, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("userfaultfd: unregister %d bytes: %w", r.size, err)
	}
	return nil
}

// wake lets whoever waits in r try again; where the page is still missing that
// makes a new report.
func (u uffd) wake(r uffdRange) error {
	if err := u.ioctl(uffdioWake, unsafe.Pointer(&r)); err != nil {
		return fmt.Errorf("userfaultfd: wake: %w", err)
	}
	return nil
}

// copy fills the page at address at with data, in one step, and wakes who
// waits for it. placed is false when it was there already.
func (u uffd) copy(at uint64, data []byte) (placed bool, err error) {
	arg := uffdCopy{dst: at, src: rangeOf(data).start, size: uint64(len(data))}
	err = u.again(func() error { return u.ioctl(uffdioCopy, unsafe.Pointer(&arg)) })
	runtime.KeepAlive(data)
	return u.placed(err, uffdRange{at, uint64(len(data))})
}

// zero fills the page at address at with zeros; otherwise as copy.
func (u uffd) zero(at uint64) (placed bool, err error) {
	arg := uffdZero{uffdRange: uffdRange{at, PageSize}}
	err = u.again(func() error { return u.ioctl(uffdioZero, unsafe.Pointer(&arg)) })
	return u.placed(err, arg.uffdRange)
}

// placed reads the outcome of a copy. A page that is there wakes nobody, and
// somebody may wait for it: whoever placed it in another way did not wake.
func (u uffd) placed(err error, r uffdRange) (bool, error) {
	if errors.Is(err, unix.EEXIST) {
		return false, u.wake(r)
	}
	return err == nil, err
}

// again repeats what the kernel refused because the address space was about to
// change.
func (u uffd) again(do func() error) error {
	for {
		if err := do(); !errors.Is(err, unix.EAGAIN) {
			return err
		}
		runtime.Gosched()
	}
}
