package tcp

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls on a socket that wait for nobody. Go's scheduler does not hear of them:
// there are many in a row, and in User Mode Linux each is long enough for it to
// take the processor away.

//go:uintptrescapes
func call(number, a, b, c, d, e, f uintptr) (int, error) {
	for {
		r, _, errno := unix.RawSyscall6(number, a, b, c, d, e, f)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func set(fd, level, option int, value []byte) error {
	_, err := call(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	return err
}

func setInt(fd, level, option int, value int32) error {
	_, err := call(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
	return err
}

// get reads an option into b and tells how long it is.
func get(fd, level, option int, b []byte) (int, error) {
	size := uint32(len(b))
	_, err := call(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&size)), 0)
	return int(size), err
}

func getInt(fd, level, option int) (uint32, error) {
	var value uint32
	size := uint32(unsafe.Sizeof(value))
	_, err := call(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	return value, err
}

// Peek reads what waits in a socket and leaves it there; it fills b, or as much
// of it as there is.
func Peek(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		// The kernel gives what is contiguous: all of it, as a rule.
		got, err := call(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if err == unix.EAGAIN {
			return n, nil
		}
		if err != nil || got <= n {
			return n, err
		}
		n = got
	}
	return n, nil
}

// write writes all of b, or fails: with EAGAIN where there is no room.
func write(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := call(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// pending asks for SIOCINQ or SIOCOUTQ.
func pending(fd int, which uintptr) (int, error) {
	var n int32
	_, err := call(unix.SYS_IOCTL, uintptr(fd), which, uintptr(unsafe.Pointer(&n)), 0, 0, 0)
	return int(n), err
}

// Unacknowledged is how many bytes were written to a socket and have not been
// acknowledged.
func Unacknowledged(fd int) (int, error) { return pending(fd, unix.SIOCOUTQ) }

// step is one of several things that are done in order.
type step struct {
	what string
	do   func() error
}

// inOrder does one after the other until one fails, and says which.
func inOrder(steps ...step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
	}
	return nil
}

// receive reads what a socket has: a netlink request is answered, as far as
// there is room, before its sender goes on.
func receive(fd int, b []byte) (int, error) {
	return call(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_DONTWAIT, 0, 0)
}
