package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lease"
)

// Run is the body of the hidden verb `vpclab hypervisor`: the agent of a host, in
// this process and this network namespace, told what to do over conn. at is the
// host's address in the network of the hosts, or ""; dir is the lab's folder of
// VMs; netns is where the namespace is mounted, for what of its VMs outlives the
// agent. It returns nil when conn ends, because then the lab is gone.
func Run(ctx context.Context, conn net.Conn, host, at, dir, netns string) error {
	standBack()
	a := &agent{host: host, dir: dir, netns: netns, vms: map[string]*vm{}, moves: map[[16]byte]*moving{}, seats: map[string]*seat{}}
	if at != "" {
		var err error
		if a.addr, err = netip.ParseAddr(at); err != nil {
			return fmt.Errorf("hypervisor agent of %s: %w", host, err)
		}
	}
	if err := os.MkdirAll(a.sockets(), 0o700); err != nil {
		return fmt.Errorf("hypervisor agent of %s: %w", host, err)
	}
	a.channel = newChannel(conn, a.answer, func(event.Event) {})
	err := a.channel.serve(ctx)
	a.leave()
	return err
}

// agent is a host's hypervisor. The lab's folder of VMs holds
//
//	hosts/<host>/<vm>/   memory, disk and what else a host has of a VM
//	sockets/<vm>         the guest's control socket, wherever it runs
type agent struct {
	host    string
	addr    netip.Addr // in the network of the hosts; zero: none
	dir     string
	netns   string // where the host's namespace is mounted
	channel *channel

	mu    sync.Mutex
	vms   map[string]*vm
	moves map[[16]byte]*moving

	seating sync.Mutex       // held by whoever begins or ends a seat
	seats   map[string]*seat // of protected VMs, by VM
	leases  *lease.Node      // theirs; nil: there was none yet
}

func (a *agent) sockets() string { return filepath.Join(a.dir, "sockets") }

// folder is where the host has what is of a VM.
func (a *agent) folder(vm string) string { return filepath.Join(a.dir, "hosts", a.host, vm) }

// tell puts an event on the lab's time line.
func (a *agent) tell(vm, kind string, attr map[string]string) {
	if attr == nil {
		attr = map[string]string{}
	}
	attr["host"] = a.host
	a.channel.emit(event.New(vm, kind, attr))
}

// answer does what the lab asks for.
func (a *agent) answer(ctx context.Context, op string, body json.RawMessage) (any, error) {
	var o order
	if err := json.Unmarshal(body, &o); err != nil {
		return nil, err
	}
	if op == opPing {
		return nil, nil
	}
	if o.VM == "" {
		return nil, errors.New("of which VM is not said")
	}
	moves := op == opReceive || op == opReceived || op == opSend || op == opRelease || op == opCancel
	if moves && o.Move == nil {
		return nil, errors.New("which migration is not said")
	}
	if op == opProtect && o.Pair == nil {
		return nil, errors.New("which pair is not said")
	}
	switch op {
	case opProtect:
		return nil, a.protect(*o.Pair)
	case opUnprotect:
		return nil, a.unprotect(ctx, o.VM)
	case opSwitchOver, opSeatStatus:
		s, err := a.seat(o.VM)
		if err != nil {
			return nil, err
		}
		if op == opSwitchOver {
			return nil, s.switchOver(ctx)
		}
		return s.status(ctx)
	case opOwn:
		if o.Spec == nil {
			return nil, errors.New("what the VM is is not said")
		}
		return nil, a.vm(o.VM).own(ctx, *o.Spec, o.NetNS)
	case opDisown:
		a.vm(o.VM).disown()
		return nil, nil
	case opHalt:
		return nil, a.vm(o.VM).halt(ctx)
	case opStatus:
		return a.status(ctx, o.VM)
	case opReceive:
		return a.receive(ctx, *o.Move)
	case opReceived:
		m := a.move(o.Move.ID)
		if m == nil {
			return nil, fmt.Errorf("no migration of %s is under way", o.VM)
		}
		return m.wait(ctx)
	case opSend:
		return a.send(ctx, *o.Move, o.To)
	case opRelease:
		if m := a.move(o.Move.ID); m != nil {
			m.release()
		}
		return nil, nil
	case opCancel:
		if m := a.move(o.Move.ID); m != nil {
			m.cancel(errCancelled)
		}
		return nil, nil
	}
	return nil, fmt.Errorf("no agent knows how to %q", op)
}

// errCancelled is why a migration fails that the lab has given up.
var errCancelled = errors.New("the migration was cancelled")

// vm is what the agent knows of a VM.
func (a *agent) vm(name string) *vm {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.vms[name] == nil {
		a.vms[name] = &vm{agent: a, name: name}
	}
	return a.vms[name]
}

func (a *agent) move(id [16]byte) *moving {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.moves[id]
}

// status asks a guest, wherever it runs.
func (a *agent) status(ctx context.Context, vm string) (guest.Status, error) {
	r, err := guest.Connect(ctx, a.vm(vm).socket(), "")
	if err != nil {
		return guest.Status{}, err
	}
	defer r.Close()
	return r.Status(ctx)
}

// leave ends what moves VMs, and this host's guests: the lab is gone, and nobody
// would end them later. (An agent that is killed leaves them running.)
func (a *agent) leave() {
	a.mu.Lock()
	var mine []*vm
	for _, m := range a.moves {
		m.cancel(errGone)
	}
	for _, v := range a.vms {
		mine = append(mine, v)
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), leaveWithin, fmt.Errorf("waited %v for guests to end", leaveWithin))
	defer cancel()
	a.leaveSeats(ctx)
	// One that stands in the middle of a migration is nobody's, and still runs on
	// this host's memory.
	var all sync.WaitGroup
	for _, v := range mine {
		all.Go(func() { _ = v.halt(ctx) }) // there is nobody to tell
	}
	all.Wait()
}

// leaveWithin bounds the end of an agent's guests with it.
const leaveWithin = 5 * time.Second
