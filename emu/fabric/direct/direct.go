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
	"os"
	"slices"
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

// EnterNetwork moves the calling thread into a network namespace.
func EnterNetwork(ns int) error {
	_, err := call(unix.SYS_SETNS, uintptr(ns), unix.CLONE_NEWNET, 0, 0, 0, 0)
	return err
}

// Duplicate opens a file once more; the copy is closed when a program is started.
func Duplicate(fd int) (int, error) {
	return call(unix.SYS_FCNTL, uintptr(fd), unix.F_DUPFD_CLOEXEC, 0, 0, 0, 0)
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

// Send gives p to a socket as far as it takes it; it does not wait (EAGAIN), and
// no signal says that the other end is gone (EPIPE).
func Send(fd int, p []byte) (int, error) {
	return call(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
}

// ReadFile reads a whole file, those of /proc with few calls.
func ReadFile(path string) ([]byte, error) {
	fd, err := Open(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer Close(fd)
	data := make([]byte, 0, 8<<10)
	for {
		data = slices.Grow(data, 4<<10)
		room := data[len(data):cap(data)]
		n, err := call(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(room))), uintptr(len(room)), 0, 0, 0)
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return data, nil
		}
		data = data[:len(data)+n]
	}
}

// WriteFile makes a file, or replaces what is in it.
func WriteFile(path string, data []byte, mode uint32) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	fd, err := call(unix.SYS_OPENAT, atCWD, uintptr(unsafe.Pointer(p)), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, uintptr(mode), 0, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	for len(data) > 0 && err == nil {
		var n int
		n, err = Write(fd, data)
		data = data[n:]
	}
	if err = errors.Join(err, Close(fd)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// Names are those in a folder, in no order.
func Names(dir string) (names []string, err error) {
	fd, err := Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer Close(fd)
	buf := make([]byte, 32<<10)
	for {
		n, err := call(unix.SYS_GETDENTS64, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0, 0, 0)
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: dir, Err: err}
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// InodeOf is Inode of a file by its path, links followed.
func InodeOf(path string) (uint64, error) {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	_, err = call(unix.SYS_NEWFSTATAT, atCWD, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&st)), 0, 0, 0)
	return st.Ino, err
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

// Unlink removes a name of a file.
func Unlink(path string) error { return unlink(path, 0) }

// Rmdir removes an empty folder.
func Rmdir(path string) error { return unlink(path, unix.AT_REMOVEDIR) }

func unlink(path string, flags uintptr) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	_, err = call(unix.SYS_UNLINKAT, atCWD, uintptr(unsafe.Pointer(p)), flags, 0, 0, 0)
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
