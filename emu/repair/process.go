package repair

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// Verb is the hidden verb of this program that Run is the body of.
const Verb = "repair"

// defaultWait bounds a question whose context has no deadline.
const defaultWait = 30 * time.Second

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces interface {
	Start(node string, cmd *exec.Cmd) error
}

// Process is the lab's handle of one router's process. Its methods may be called
// from several goroutines.
type Process struct {
	node string
	cmd  *exec.Cmd
	conn net.Conn // our end of the control channel
	sink event.Sink
	tail *child.Tail // last lines of its standard error

	write sync.Mutex // one line at a time

	mu       sync.Mutex
	next     uint64
	calls    map[uint64]chan reply
	stopping bool // Stop or Kill was called: an end is no error

	done chan struct{} // closed when the process and its reader have ended
	err  error         // valid after done
}

// Start runs the process in a router's namespace. It returns as soon as the
// process exists; the first Configure waits for it to answer. Events go to sink.
// ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, node string, sink event.Sink) (*Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("start repair process of %s: %w", node, err)
	}
	ours, theirs, err := child.Channel("repair")
	if err != nil {
		return nil, fmt.Errorf("start repair process of %s: %w", node, err)
	}
	defer theirs.Close()
	p := &Process{node: node, conn: ours, sink: sink, tail: &child.Tail{}, calls: map[uint64]chan reply{}, done: make(chan struct{})}
	p.cmd = exec.Command("/proc/self/exe", Verb)
	p.cmd.ExtraFiles = []*os.File{theirs} // fd 3
	p.cmd.Stderr = p.tail
	p.cmd.Env = append(os.Environ(), environment...)
	// A process group of its own: an interrupt at the terminal is for the lab.
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := ns.Start(node, p.cmd); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start repair process of %s: %w", node, err)
	}
	go p.run()
	return p, nil
}

// run reads until the process ends, then settles everybody who waits.
func (p *Process) run() {
	p.read()
	err := p.cmd.Wait()
	last, status := p.tail.String(), "exit status 0"
	if err != nil {
		status = err.Error()
	}
	p.mu.Lock()
	if !p.stopping {
		p.err = fmt.Errorf("repair process of %s ended: %s", p.node, status)
		if last != "" {
			p.err = fmt.Errorf("%w: %s", p.err, last)
		}
	}
	calls := p.calls
	p.calls = nil
	p.mu.Unlock()
	p.sink(event.New(p.node, "repair.exit", map[string]string{"status": status, "stderr": last}))
	close(p.done)
	for _, c := range calls {
		close(c)
	}
}

// read takes lines until end of file.
func (p *Process) read() {
	sc := bufio.NewScanner(p.conn)
	sc.Buffer(make([]byte, 0, 16<<10), maxLine)
	for sc.Scan() {
		r, err := decodeReply(sc.Bytes())
		if err != nil {
			fmt.Fprintf(p.tail, "parent: %v\n", err)
			break
		}
		if r.Event != nil {
			p.sink(*r.Event)
			continue
		}
		p.mu.Lock()
		c := p.calls[r.ID]
		delete(p.calls, r.ID)
		p.mu.Unlock()
		if c != nil {
			c <- r // buffered
		}
	}
	if err := sc.Err(); err != nil {
		fmt.Fprintf(p.tail, "parent: read control channel: %v\n", err)
	}
	// Nobody would read on: a process that still runs sees the end of file.
	p.conn.Close()
}

// call sends a request and waits for its answer.
func (p *Process) call(ctx context.Context, r request) (reply, error) {
	fail := func(err error) (reply, error) {
		return reply{}, fmt.Errorf("repair process of %s: %s: %w", p.node, r.Op, err)
	}
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, defaultWait, fmt.Errorf("waited %v for an answer", defaultWait))
		defer cancel()
	}
	answer := make(chan reply, 1)
	p.mu.Lock()
	if p.calls == nil {
		p.mu.Unlock()
		return fail(p.ended())
	}
	p.next++
	r.ID = p.next
	p.calls[r.ID] = answer
	p.mu.Unlock()
	line, err := json.Marshal(r)
	if err == nil {
		p.write.Lock()
		_, err = p.conn.Write(append(line, '\n'))
		p.write.Unlock()
	}
	if err != nil {
		p.forget(r.ID)
		return fail(err)
	}
	select {
	case got, ok := <-answer:
		switch {
		case !ok:
			return fail(p.ended())
		case got.Error != "":
			return got, fmt.Errorf("repair process of %s: %s: %s", p.node, r.Op, got.Error)
		}
		return got, nil
	case <-ctx.Done():
		p.forget(r.ID)
		return fail(context.Cause(ctx))
	}
}

func (p *Process) forget(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.calls, id)
}

// ended is why there is no process any more.
func (p *Process) ended() error {
	<-p.done
	return cmp.Or(p.err, errors.New("stopped"))
}

// Configure sends cfg whole. It returns when sessions are set up (not when they
// are up) and the kernel has the routes that follow from what is known.
func (p *Process) Configure(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	_, err := p.call(ctx, request{Op: opConfigure, Config: &cfg})
	return err
}

// Status is what the process knows.
func (p *Process) Status(ctx context.Context) (*Status, error) {
	r, err := p.call(ctx, request{Op: opStatus})
	if err == nil && r.Status == nil {
		err = fmt.Errorf("repair process of %s: %s: the answer has no status", p.node, opStatus)
	}
	return r.Status, err
}

// Stop ends the process in order: neighbours are told that this end stops on
// purpose, and the router's own routes are put back, whatever has failed. One
// that has not ended when ctx does is killed.
func (p *Process) Stop(ctx context.Context) error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, defaultWait, fmt.Errorf("waited %v for its end", defaultWait))
	defer cancel()
	_, err := p.call(ctx, request{Op: opStop})
	select {
	case <-p.done:
		if err != nil && p.cmd.ProcessState.Success() {
			return nil // it was gone already
		}
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("repair process of %s: stop: still running, killed: %w", p.node, context.Cause(ctx)), p.Kill())
	}
}

// Kill ends the process at once, as a crash would, and waits for its end. Routes
// stay as they are; a successor recognizes them.
func (p *Process) Kill() error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("repair process of %s: kill: %w", p.node, err)
	}
	<-p.done
	return nil
}

// Done is closed when the process has ended; Err then says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil while the process runs and after Stop or Kill; otherwise it gives
// the exit status and the last lines of standard error.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Node is the router that the process runs in.
func (p *Process) Node() string { return p.node }
