package lease

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
)

// DefaultWait bounds a call whose context has no deadline.
const DefaultWait = 30 * time.Second

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces interface {
	Start(node string, cmd *exec.Cmd) error
}

// Process is the lab's handle of one witness process. Its methods may be called
// from several goroutines; each fails when the process is gone.
type Process struct {
	host string
	cmd  *exec.Cmd
	conn net.Conn
	tail *child.Tail // last lines of its standard error

	turn    chan struct{} // held by who asks: answers come in order
	answers chan answer

	mu       sync.Mutex
	stopping bool // Kill was called: an end is no error

	done chan struct{} // closed when the process and its reader have ended
	err  error         // valid after done
}

// Start runs a witness in the namespace of a host. at is where its VMs' other
// members find it; dir has its records, and those that are there already are
// gone on with. Events go to sink. ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, host string, at netip.AddrPort, dir string, sink event.Sink) (*Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("start witness at %s: %w", host, err)
	}
	ours, theirs, err := child.Channel("witness")
	if err != nil {
		return nil, fmt.Errorf("start witness at %s: %w", host, err)
	}
	defer theirs.Close()
	p := &Process{
		host: host, conn: ours, tail: &child.Tail{}, done: make(chan struct{}),
		turn: make(chan struct{}, 1), answers: make(chan answer, 1),
	}
	p.cmd = exec.Command("/proc/self/exe", Verb, host, at.String(), dir)
	p.cmd.ExtraFiles = []*os.File{theirs} // fd 3
	p.cmd.Stderr = p.tail
	// A process group of its own: an interrupt at the terminal is for the lab.
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := ns.Start(host, p.cmd); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start witness at %s: %w", host, err)
	}
	go p.run(sink)
	return p, nil
}

// run reads until the process ends.
func (p *Process) run(sink event.Sink) {
	broken := p.read(sink)
	p.conn.Close() // it ends when that does
	err := p.cmd.Wait()
	p.mu.Lock()
	if !p.stopping {
		status := "exit status 0"
		if err != nil {
			status = err.Error()
		}
		p.err = fmt.Errorf("witness at %s ended: %s", p.host, status)
		if broken != nil {
			p.err = fmt.Errorf("%w (%w)", p.err, broken)
		}
		if last := p.tail.String(); last != "" {
			p.err = fmt.Errorf("%w: %s", p.err, last)
		}
	}
	p.mu.Unlock()
	close(p.done)
}

func (p *Process) read(sink event.Sink) error {
	lines := bufio.NewScanner(p.conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return fmt.Errorf("control message: %w", err)
		}
		if a.Event != nil {
			sink(*a.Event)
			continue
		}
		select {
		case p.answers <- a:
		default:
			return errors.New("control message: an answer that nobody asked for")
		}
	}
	return lines.Err()
}

// ask is one question and its answer. A process that does not answer in time is
// of no more use to who asks in this way: it is ended.
func (p *Process) ask(ctx context.Context, o order) (a answer, err error) {
	fail := func(err error) (answer, error) {
		return answer{}, fmt.Errorf("witness at %s: %s: %w", p.host, o.Op, err)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, DefaultWait, fmt.Errorf("no answer within %v", DefaultWait))
		defer cancel()
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return fail(fmt.Errorf("wait for an earlier question: %w", context.Cause(ctx)))
	case <-p.done:
		return fail(p.gone())
	}
	line, err := json.Marshal(o)
	if err != nil {
		return fail(err)
	}
	if _, err := p.conn.Write(append(line, '\n')); err != nil {
		<-p.done
		return fail(p.gone())
	}
	select {
	case a = <-p.answers:
	case <-p.done:
		return fail(p.gone())
	case <-ctx.Done():
		// The answer may come yet, and be taken for that to another question.
		_ = p.cmd.Process.Kill()
		return fail(context.Cause(ctx))
	}
	if a.Error != "" {
		return fail(errors.New(a.Error))
	}
	return a, nil
}

func (p *Process) gone() error { return cmp.Or(p.err, errors.New("it was stopped")) }

// Serve has the witness serve a VM. One of which it has no record, or that of
// another instance, begins at the host first, which may not have left it to
// another: it is how the lab puts a new VM in its place. Said again, also to a
// witness that was started again, it goes on with the record, which is returned.
func (p *Process) Serve(ctx context.Context, c Config, first string) (Record, error) {
	a, err := p.ask(ctx, order{Op: opServe, Config: &c, First: first})
	if err != nil || a.Record == nil {
		return Record{}, err
	}
	return *a.Record, nil
}

// Forget ends with a VM that is gone, or whose hosts have both left their seats.
func (p *Process) Forget(ctx context.Context, vm string) error {
	_, err := p.ask(ctx, order{Op: opForget, VM: vm})
	return err
}

// Ping returns when the witness answers.
func (p *Process) Ping(ctx context.Context) error {
	_, err := p.ask(ctx, order{Op: opPing})
	return err
}

// Kill ends the process at once, as a crash would, and waits for its end. Its
// records stay.
func (p *Process) Kill() error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("witness at %s: kill: %w", p.host, err)
	}
	<-p.done
	return nil
}

// Done is closed when the process has ended; Err then says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil while the process runs and after Kill; otherwise it gives the exit
// status and the last lines of standard error.
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

// Host is the node that the witness runs in.
func (p *Process) Host() string { return p.host }
