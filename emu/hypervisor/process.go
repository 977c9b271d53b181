package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
)

// Verb is the hidden verb of this program that Run is the body of. Its
// arguments are the host's name, its address, the lab's folder of VMs and where
// the host's namespace is mounted.
const Verb = "hypervisor"

// Namespaces starts processes inside nodes; *fabric.Fabric is one.
type Namespaces = child.Namespaces

// Process is the lab's handle of one agent process. Its methods may be called
// from several goroutines; each fails when the process is gone. Its guests run on
// when it is killed; Fence is for one that might still act on VMs that are not its
// any more.
type Process struct {
	*child.Process
	host    string
	channel *channel
}

var (
	_ Agent     = (*Process)(nil)
	_ Protector = (*Process)(nil)
)

// Start runs an agent in the host's namespace. addr is the host's in the network
// of the hosts; a zero one: it can keep VMs and move none. dir is the lab's
// folder of VMs, the same for all its hosts, and netns is where the host's namespace is
// mounted. Events of the agent go to sink, and its questions to manager. ctx
// bounds the start only.
func Start(ctx context.Context, ns Namespaces, host string, addr netip.Addr, dir, netns string, manager Manager, sink event.Sink) (*Process, error) {
	at := ""
	if addr.IsValid() {
		at = addr.String()
	}
	c, err := child.Start(ctx, ns, child.Command{What: "hypervisor agent of " + host, Node: host, Args: []string{Verb, host, at, dir, netns}})
	if err != nil {
		return nil, err
	}
	p := &Process{Process: c, host: host, channel: newChannel(c.Conn, answers(manager), sink)}
	go p.Run(func() error { return p.channel.serve(context.Background()) }, nil)
	return p, nil
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
		return fmt.Errorf("hypervisor agent of %s: %s: %w", p.host, op, &GoneError{p.Ended()})
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

// Host is the node that the agent runs in.
func (p *Process) Host() string { return p.host }
