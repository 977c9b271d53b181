package hypervisor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
)

// Verb is the hidden verb of this program that Run is the body of. Its
// arguments are the host's name, its address and the lab's folder of VMs.
const Verb = "hypervisor"

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces interface {
	Start(node string, cmd *exec.Cmd) error
}

// Process is the lab's handle of one agent process. Its methods may be called
// from several goroutines; each fails when the process is gone.
type Process struct {
	host    string
	cmd     *exec.Cmd
	channel *channel
	tail    *child.Tail // last lines of its standard error

	mu       sync.Mutex
	stopping bool  // Kill was called: an end is no error
	fenced   error // why Fence was called

	done chan struct{} // closed when the process and its reader have ended
	err  error         // valid after done
}

var (
	_ Agent     = (*Process)(nil)
	_ Protector = (*Process)(nil)
)

// Start runs an agent in the host's namespace. addr is the host's in the network
// of the hosts; a zero one: it can keep VMs and move none. dir is the lab's
// folder of VMs, the same for all its hosts. Events of the agent go to sink, and
// its questions to manager. ctx bounds the start only.
func Start(ctx context.Context, ns Namespaces, host string, addr netip.Addr, dir string, manager Manager, sink event.Sink) (*Process, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("start hypervisor agent of %s: %w", host, err)
	}
	ours, theirs, err := child.Channel("agent")
	if err != nil {
		return nil, fmt.Errorf("start hypervisor agent of %s: %w", host, err)
	}
	defer theirs.Close()
	p := &Process{host: host, tail: &child.Tail{}, done: make(chan struct{})}
	p.channel = newChannel(ours, answers(manager), sink)
	at := ""
	if addr.IsValid() {
		at = addr.String()
	}
	p.cmd = exec.Command("/proc/self/exe", Verb, host, at, dir)
	p.cmd.ExtraFiles = []*os.File{theirs} // fd 3
	p.cmd.Stderr = p.tail
	// A process group of its own: an interrupt at the terminal is for the lab.
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := ns.Start(host, p.cmd); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start hypervisor agent of %s: %w", host, err)
	}
	go p.run()
	return p, nil
}

// run reads until the process ends.
func (p *Process) run() {
	broken := p.channel.serve(context.Background())
	err := p.cmd.Wait()
	status := "exit status 0"
	if err != nil {
		status = err.Error()
	}
	p.mu.Lock()
	if !p.stopping {
		p.err = fmt.Errorf("hypervisor agent of %s ended: %s", p.host, status)
		if broken != nil {
			p.err = fmt.Errorf("%w (%w)", p.err, broken)
		}
		if p.fenced != nil {
			p.err = fmt.Errorf("hypervisor agent of %s was killed: %w", p.host, p.fenced)
		}
		if last := p.tail.String(); last != "" {
			p.err = fmt.Errorf("%w: %s", p.err, last)
		}
	}
	p.mu.Unlock()
	close(p.done)
}

// answers is what an agent's questions are answered by.
func answers(m Manager) func(context.Context, string, json.RawMessage) (any, error) {
	return func(ctx context.Context, op string, body json.RawMessage) (any, error) {
		var q ownership
		if err := json.Unmarshal(body, &q); err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		switch op {
		case opPaused:
			m.Paused(ctx, q.VM, q.ID, q.At)
			return nil, nil
		case opCommit:
			return nil, m.Commit(ctx, q.VM, q.ID)
		case opAbort:
			return nil, m.Abort(ctx, q.VM, q.ID)
		}
		return nil, fmt.Errorf("an agent asks for %q: want %s, %s or %s", op, opPaused, opCommit, opAbort)
	}
}

// Questions of an agent.
const (
	opPaused = "paused"
	opCommit = "commit"
	opAbort  = "abort"
)

// ownership is what they say.
type ownership struct {
	VM string     `json:"vm"`
	ID [16]byte   `json:"id"`
	At event.Mono `json:"at,omitempty"`
}

// Questions of the lab.
const (
	opOwn      = "own"
	opDisown   = "disown"
	opHalt     = "halt"
	opReceive  = "receive"
	opReceived = "received"
	opSend     = "send"
	opRelease  = "release"
	opCancel   = "cancel"
	opStatus   = "status"
	opPing     = "ping"

	opProtect    = "protect"
	opUnprotect  = "unprotect"
	opSwitchOver = "switch-over"
	opSeatStatus = "seat-status"
)

// order is what they say; each uses what it needs.
type order struct {
	VM    string         `json:"vm,omitempty"`
	Spec  *guest.Spec    `json:"spec,omitempty"`
	NetNS string         `json:"netns,omitempty"`
	Move  *Move          `json:"move,omitempty"`
	To    netip.AddrPort `json:"to,omitzero"`
	Pair  *Pair          `json:"pair,omitempty"`
}

// do asks the agent, within the time that a short call may take.
func (p *Process) do(ctx context.Context, op string, o order, out any) error {
	return p.outcome(op, p.channel.call(ctx, op, o, out))
}

// wait asks for what takes as long as it takes.
func (p *Process) wait(ctx context.Context, op string, o order, out any) error {
	return p.outcome(op, p.channel.ask(ctx, op, o, out))
}

func (p *Process) outcome(op string, err error) error {
	if errors.Is(err, errGone) {
		<-p.done
		return fmt.Errorf("hypervisor agent of %s: %s: %w", p.host, op, &GoneError{cmp.Or(p.err, errors.New("stopped"))})
	}
	if err != nil {
		return fmt.Errorf("hypervisor agent of %s: %s: %w", p.host, op, err)
	}
	return nil
}

// GoneError says that an agent's process has ended.
type GoneError struct{ why error }

func (e *GoneError) Error() string { return e.why.Error() }
func (e *GoneError) Unwrap() error { return e.why }

// Own implements Agent.
func (p *Process) Own(ctx context.Context, spec guest.Spec, netns string) error {
	return p.do(ctx, opOwn, order{VM: spec.Name, Spec: &spec, NetNS: netns}, nil)
}

// Disown implements Agent.
func (p *Process) Disown(ctx context.Context, vm string) error {
	return p.do(ctx, opDisown, order{VM: vm}, nil)
}

// Halt implements Agent.
func (p *Process) Halt(ctx context.Context, vm string) error {
	return p.do(ctx, opHalt, order{VM: vm}, nil)
}

// Receive implements Agent.
func (p *Process) Receive(ctx context.Context, move Move) (at netip.AddrPort, err error) {
	err = p.do(ctx, opReceive, order{VM: move.VM, Move: &move}, &at)
	return at, err
}

// Received implements Agent.
func (p *Process) Received(ctx context.Context, move Move) (*Outcome, error) {
	var out Outcome
	err := p.wait(ctx, opReceived, order{VM: move.VM, Move: &move}, &out)
	return &out, err
}

// Send implements Agent.
func (p *Process) Send(ctx context.Context, move Move, to netip.AddrPort) (*Outcome, error) {
	var out Outcome
	err := p.wait(ctx, opSend, order{VM: move.VM, Move: &move, To: to}, &out)
	return &out, err
}

// Release implements Agent.
func (p *Process) Release(ctx context.Context, move Move) error {
	return p.do(ctx, opRelease, order{VM: move.VM, Move: &move}, nil)
}

// Cancel implements Agent.
func (p *Process) Cancel(ctx context.Context, move Move) error {
	return p.do(ctx, opCancel, order{VM: move.VM, Move: &move}, nil)
}

// Status implements Agent.
func (p *Process) Status(ctx context.Context, vm string) (s guest.Status, err error) {
	err = p.do(ctx, opStatus, order{VM: vm}, &s)
	return s, err
}

// Protect implements Protector.
func (p *Process) Protect(ctx context.Context, pair Pair) error {
	return p.do(ctx, opProtect, order{VM: pair.VM, Pair: &pair}, nil)
}

// Unprotect implements Protector.
func (p *Process) Unprotect(ctx context.Context, vm string) error {
	return p.do(ctx, opUnprotect, order{VM: vm}, nil)
}

// SwitchOver implements Protector.
func (p *Process) SwitchOver(ctx context.Context, vm string) error {
	return p.do(ctx, opSwitchOver, order{VM: vm}, nil)
}

// SeatStatus implements Protector.
func (p *Process) SeatStatus(ctx context.Context, vm string) (s SeatStatus, err error) {
	err = p.do(ctx, opSeatStatus, order{VM: vm}, &s)
	return s, err
}

// Ping returns when the agent answers.
func (p *Process) Ping(ctx context.Context) error { return p.do(ctx, opPing, order{}, nil) }

// Fence ends a process that is there and does not answer, as a crash would: one
// that went on later might still act on VMs that are not its any more. Err then
// gives why.
func (p *Process) Fence(why error) error {
	p.mu.Lock()
	p.fenced = why
	p.mu.Unlock()
	return p.end()
}

// Kill ends the process at once, as a crash would, and waits for its end. Its
// guests run on.
func (p *Process) Kill() error {
	p.mu.Lock()
	p.stopping = true
	p.mu.Unlock()
	return p.end()
}

func (p *Process) end() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("hypervisor agent of %s: kill: %w", p.host, err)
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

// Host is the node that the agent runs in.
func (p *Process) Host() string { return p.host }
