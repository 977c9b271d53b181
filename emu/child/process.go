package child

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces interface {
	Start(node string, cmd *exec.Cmd) error
}

// Command is a process to be started.
type Command struct {
	What string   // it is, and where, for messages: "witness at oregon-h1"
	Node string   // whose namespace it runs in
	Args []string // the hidden verb of this program, and its arguments
	Argv []string // another program in place of that
	Env  []string // beside our own
	// Apart gives it namespaces of its own, by their clone(2) flags, besides the
	// node's network namespace.
	Apart uintptr
}

// Process is the parent's handle of a process: what it is told and tells goes
// over Conn, and is the business of who uses it. Its methods may be called from
// several goroutines.
type Process struct {
	Conn net.Conn // our end of the control channel
	Tail Tail     // last lines of its standard error

	what string
	cmd  *exec.Cmd

	mu       sync.Mutex
	stopping bool  // its end is wanted, and no error
	fenced   error // why it was killed

	done chan struct{} // closed when the process and its reader have ended
	err  error         // valid after done
}

// Start starts a process in a node's namespace, in a process group of its own: an
// interrupt at the terminal is for the lab, which ends its processes in order. The
// caller calls Run. ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, c Command) (*Process, error) {
	fail := func(err error) (*Process, error) { return nil, fmt.Errorf("start %s: %w", c.What, err) }
	if err := context.Cause(ctx); err != nil {
		return fail(err)
	}
	ours, theirs, err := Channel(c.What)
	if err != nil {
		return fail(err)
	}
	defer theirs.Close()
	argv := c.Argv
	if argv == nil {
		argv = append([]string{"/proc/self/exe"}, c.Args...)
	}
	p := &Process{Conn: ours, what: c.What, done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.ExtraFiles = []*os.File{theirs} // controlFD
	p.cmd.Stderr = &p.Tail
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Cloneflags: c.Apart}
	if err := ns.Start(c.Node, p.cmd); err != nil {
		ours.Close()
		return fail(err)
	}
	return p, nil
}

// Run reads what the process says, by read, until that ends, and waits for its end:
// one that still runs sees the end of the channel. settle, which may be nil, hears
// how it ended before Done is closed.
func (p *Process) Run(read func() error, settle func(status, last string)) {
	broken := read()
	p.Conn.Close()
	err := p.cmd.Wait()
	status := "exit status 0"
	if err != nil {
		status = err.Error()
	}
	last := p.Tail.String()
	p.mu.Lock()
	p.err = p.verdict(status, last, broken)
	p.mu.Unlock()
	if settle != nil {
		settle(status, last)
	}
	close(p.done)
}

// verdict is what is wrong with its end. The caller has the lock.
func (p *Process) verdict(status, last string, broken error) error {
	if p.stopping {
		return nil
	}
	err := fmt.Errorf("%s ended: %s", p.what, status)
	if broken != nil {
		err = fmt.Errorf("%w (%w)", err, broken)
	}
	if p.fenced != nil {
		err = fmt.Errorf("%s was killed: %w", p.what, p.fenced)
	}
	if last != "" {
		err = fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// Expect says that the end of the process is wanted from now on.
func (p *Process) Expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
}

// Kill ends the process at once, as a crash would, and waits for its end.
func (p *Process) Kill() error {
	p.Expect()
	return p.end()
}

// Fence ends a process that is there and does not answer, as a crash would: one
// that went on later might still act. Err then gives why.
func (p *Process) Fence(why error) error {
	p.mu.Lock()
	p.fenced = why
	p.mu.Unlock()
	return p.end()
}

func (p *Process) end() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s: kill: %w", p.what, err)
	}
	<-p.done
	return nil
}

// Done is closed when the process has ended; Err then says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil while the process runs, and where its end was wanted; otherwise it
// gives the exit status and the last lines of standard error.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Ended waits for the end of the process, and is why there is none any more.
func (p *Process) Ended() error {
	<-p.done
	return cmp.Or(p.err, errors.New("stopped"))
}

// Succeeded says whether a process that has ended did so with exit status 0.
func (p *Process) Succeeded() bool { return p.cmd.ProcessState.Success() }

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }
