package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Finder knows which processes run in the namespaces of nodes; *fabric.Fabric is
// one.
type Finder interface {
	Processes(nodes ...string) (map[string][]int, error)
}

// endDeadline is how long a killed process may take to be gone: one that holds a
// gigabyte of memory takes its time.
const endDeadline = 10 * time.Second

// PowerOff ends all processes of nodes as when their power goes: nothing of them
// is heard again. A process that is only killed has its kernel say farewell for
// it, and where nobody hears that, say it again for minutes: a machine that
// boots meanwhile would end connections that it cannot know of. So connections
// are taken from the processes before they end (TCP_REPAIR), and let go without
// a word. The links of the nodes are dark by then.
func PowerOff(in Finder, nodes ...string) error {
	procs, err := in.Processes(nodes...)
	if err != nil {
		return err
	}
	var all []*process
	var errs []error
	for _, pids := range procs {
		for _, pid := range pids {
			p, err := open(pid)
			if err != nil {
				errs = append(errs, err)
			} else if p != nil {
				all = append(all, p)
			}
		}
	}
	for _, p := range all { // none has a child by now that has not been listed
		p.signal(unix.SIGSTOP)
	}
	for _, p := range all {
		errs = append(errs, p.mute())
		p.signal(unix.SIGKILL)
	}
	deadline := time.Now().Add(endDeadline)
	for _, p := range all {
		errs = append(errs, p.await(deadline))
		p.close()
	}
	return errors.Join(errs...)
}

// Kill ends processes of a node by SIGKILL; which ones is told by their command
// lines. Their connections end as their kernel sees fit. It says how many there
// were, and is back when they are gone.
func Kill(in Finder, node string, which func(argv []string) bool) (n int, err error) {
	procs, err := in.Processes(node)
	if err != nil {
		return 0, err
	}
	var all []*process
	var errs []error
	for _, pid := range procs[node] {
		if !which(commandLine(pid)) {
			continue
		}
		p, err := open(pid)
		if p != nil {
			all = append(all, p)
			p.signal(unix.SIGKILL)
		}
		errs = append(errs, err)
	}
	deadline := time.Now().Add(endDeadline)
	for _, p := range all {
		errs = append(errs, p.await(deadline))
		p.close()
	}
	return len(all), errors.Join(errs...)
}

// Reset cuts off the TCP connections that processes of a node have with a port
// at either end, as a reset from the network would: both sides see it at once.
// It says how many there were.
func Reset(in Finder, node string, port int) (n int, err error) {
	procs, err := in.Processes(node)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, pid := range procs[node] {
		p, err := open(pid)
		if p == nil {
			errs = append(errs, err)
			continue
		}
		err = p.connections(func(fd int) error {
			if !uses(fd, port) {
				return nil
			}
			n++
			// TCP's answer to a socket that is to be connected to nothing is a
			// reset to whom it was connected with (tcp_disconnect).
			return os.NewSyscallError("disconnect", disconnect(fd))
		})
		errs = append(errs, err)
		p.close()
	}
	return n, errors.Join(errs...)
}

// process is one of those that are to end.
type process struct {
	pid, fd int   // the descriptor says which one, whoever has the number by now
	taken   []int // its connections
}

// open takes hold of a process; nil: it has ended.
func open(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	return &process{pid: pid, fd: fd}, nil
}

// signal is not heard by one that has ended, which is as well.
func (p *process) signal(s unix.Signal) { _ = unix.PidfdSendSignal(p.fd, s, nil, 0) }

// mute takes the process's connections.
func (p *process) mute() error {
	return p.connections(func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
			return os.NewSyscallError("take a connection into repair", err)
		}
		kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		p.taken = append(p.taken, kept)
		return nil
	})
}

// connections hands out the process's TCP sockets that are connected, each for
// the time of the call.
func (p *process) connections(each func(fd int) error) error {
	folder := filepath.Join("/proc", strconv.Itoa(p.pid), "fd")
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: list its sockets: %w", p.pid, err)
	}
	var errs []error
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(folder, e.Name()))
		number, bad := strconv.Atoi(e.Name())
		if err != nil || bad != nil || !strings.HasPrefix(to, "socket:") {
			continue
		}
		fd, err := unix.PidfdGetfd(p.fd, number, 0)
		if err != nil {
			if !errors.Is(err, unix.EBADF) && !errors.Is(err, unix.ESRCH) { // closed, or ended, meanwhile
				errs = append(errs, fmt.Errorf("process %d: take its socket %d: %w", p.pid, number, err))
			}
			continue
		}
		if connected(fd) {
			if err := each(fd); err != nil {
				errs = append(errs, fmt.Errorf("process %d: socket %d: %w", p.pid, number, err))
			}
		}
		unix.Close(fd)
	}
	return errors.Join(errs...)
}

// connected says whether a socket is a TCP connection.
func connected(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || kind != unix.IPPROTO_TCP {
		return false
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State != unix.BPF_TCP_LISTEN && info.State != unix.BPF_TCP_CLOSE
}

// uses says whether a connection has a port at either end.
func uses(fd, port int) bool {
	has := func(a unix.Sockaddr, err error) bool {
		switch a := a.(type) {
		case *unix.SockaddrInet4:
			return err == nil && a.Port == port
		case *unix.SockaddrInet6:
			return err == nil && a.Port == port
		}
		return false
	}
	return has(unix.Getsockname(fd)) || has(unix.Getpeername(fd))
}

// await waits until the process is gone.
func (p *process) await(deadline time.Time) error {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("process %d is not gone %v after it was killed", p.pid, endDeadline)
		}
		n, err := unix.Poll(fds, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the end of process %d: %w", p.pid, os.NewSyscallError("poll", err))
		}
		if n == 1 {
			return nil
		}
	}
}

// close lets go of the process and of its connections.
func (p *process) close() {
	for _, fd := range p.taken {
		unix.Close(fd)
	}
	unix.Close(p.fd)
}

// commandLine is how a process was called; nothing of one that has ended.
func commandLine(pid int) []string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}
