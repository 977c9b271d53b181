// Package direct makes system calls that Go's scheduler does not hear of.
//
// As a rule a goroutine announces a system call, so that another can have its
// processor if the call takes longer than some 20 µs. In User Mode Linux every
// call does. The scheduler's watchdog then stays awake, takes the processor
// away and hands it to a thread that finds nothing to do, once a call: a build
// of a lab made more calls for that (clock_gettime, futex, nanosleep) than for
// namespaces and links.
//
// A direct call keeps its processor. It is for calls that wait for nobody, and
// above all for many of them in a row; where one can sleep, as in removing a
// device, the usual way is the right one.
package direct

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is one system call. Its arguments may be pointers, made uintptr in the
// very call expression.
//
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

// Unshare moves the calling thread into new namespaces.
func Unshare(flags int) error {
	_, err := call(unix.SYS_UNSHARE, uintptr(flags), 0, 0, 0, 0, 0)
	return err
}

// Socket opens a socket.
func Socket(domain, typ, protocol int) (fd int, err error) {
	return call(unix.SYS_SOCKET, uintptr(domain), uintptr(typ), uintptr(protocol), 0, 0, 0)
}

// SetsockoptInt sets an option of a socket.
func SetsockoptInt(fd, level, option int, value int32) error {
	_, err := call(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&value)), unsafe.Sizeof(value), 0)
	return err
}

// NetworkOf opens the network namespace that a socket is in.
func NetworkOf(socket int) (ns int, err error) {
	return call(unix.SYS_IOCTL, uintptr(socket), unix.SIOCGSKNS, 0, 0, 0, 0)
}

// Open opens a file that is there.
func Open(path string, flags int) (fd int, err error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	return call(unix.SYS_OPENAT, atCWD, uintptr(unsafe.Pointer(p)), uintptr(flags), 0, 0, 0)
}

// Close closes a descriptor.
func Close(fd int) error {
	_, err := call(unix.SYS_CLOSE, uintptr(fd), 0, 0, 0, 0, 0)
	return err
}

// Write writes p.
func Write(fd int, p []byte) (int, error) {
	return call(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
}

// Receive reads what a socket has; it does not wait (EAGAIN).
func Receive(fd int, p []byte) (int, error) {
	return call(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
}

// Inode is the number by which the kernel knows an open file.
func Inode(fd int) (uint64, error) {
	var st unix.Stat_t
	_, err := call(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(&st)), 0, 0, 0, 0)
	return st.Ino, err
}

// Mknod makes an empty file; it must not exist.
func Mknod(path string, mode uint32) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, err = call(unix.SYS_MKNODAT, atCWD, uintptr(unsafe.Pointer(p)), uintptr(mode), 0, 0, 0)
	return err
}

// atCWD is AT_FDCWD, -100.
const atCWD = ^uintptr(99)

// Unlink removes a name.
func Unlink(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, err = call(unix.SYS_UNLINKAT, atCWD, uintptr(unsafe.Pointer(p)), 0, 0, 0, 0)
	return err
}

// Bind mounts source on target.
func Bind(source, target string) error {
	s, err := unix.BytePtrFromString(source)
	if err != nil {
		return err
	}
	t, err := unix.BytePtrFromString(target)
	if err != nil {
		return err
	}
	none := [1]byte{}
	_, err = call(unix.SYS_MOUNT, uintptr(unsafe.Pointer(s)), uintptr(unsafe.Pointer(t)), uintptr(unsafe.Pointer(&none)), unix.MS_BIND, uintptr(unsafe.Pointer(&none)), 0)
	return err
}

// Detach takes a mount out of sight.
func Detach(target string) error {
	t, err := unix.BytePtrFromString(target)
	if err != nil {
		return err
	}
	_, err = call(unix.SYS_UMOUNT2, uintptr(unsafe.Pointer(t)), unix.MNT_DETACH, 0, 0, 0, 0)
	return err
}

// CloseRange closes the descriptors from first to last.
func CloseRange(first, last int) error {
	_, err := call(unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(last), 0, 0, 0, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.9
		err = nil
		for fd := first; fd <= last; fd++ {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	return err
}
