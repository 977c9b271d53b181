// Package child is what the processes that a lab starts for itself have in
// common: the parent's handle, the control channel between the two, and the last
// words of one that died. What is said on the channel is the business of who uses
// it: BGP speakers, repair processes, hypervisor agents, witnesses.
package child

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// controlFD is where a process finds its control channel: the first of
// exec.Cmd's ExtraFiles.
const controlFD = 3

// Channel makes a control channel: our end, and the one to pass on as the first
// of the process's ExtraFiles. name is for messages.
func Channel(name string) (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control channel: %w", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), name+"-control-child")
	if ours, err = take(fds[0], name); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("make control channel: %w", err)
	}
	return ours, theirs, nil
}

// Conn is the control channel of a process that was given one. Any other
// process gets an error: such verbs are not for people.
func Conn(name string) (net.Conn, error) {
	conn, err := take(controlFD, name)
	if err != nil {
		return nil, fmt.Errorf("file descriptor %d is no control channel (a lab starts each %s itself): %w", controlFD, name, err)
	}
	return conn, nil
}

// Descriptor is Conn for a process that waits for many things at once by system
// calls of its own: the bare descriptor, which does not block.
func Descriptor(name string) (fd int, err error) {
	if _, err = unix.GetsockoptInt(controlFD, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
		err = unix.SetNonblock(controlFD, true)
	}
	if err != nil {
		return -1, fmt.Errorf("file descriptor %d is no control channel (a lab starts each %s itself): %w", controlFD, name, err)
	}
	unix.CloseOnExec(controlFD)
	return controlFD, nil
}

// take makes a connection of fd and takes it over. A net.Conn is used because
// closing one ends a pending read.
func take(fd int, name string) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), name+"-control")
	if f == nil {
		return nil, os.ErrInvalid
	}
	defer f.Close() // FileConn has its own copy
	return net.FileConn(f)
}

// tailSize holds the head of a Go panic with its first goroutine.
const tailSize = 4 << 10

// Tail keeps the end of what is written to it: a process's standard error. The
// zero Tail is ready.
type Tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *Tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(b), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
