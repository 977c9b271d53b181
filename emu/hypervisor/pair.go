package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/lease"
	"github.com/vpclab/vpclab/emu/replicate"
	"github.com/vpclab/vpclab/topo"
)

// Protector is what the lab asks of a host about the VMs of which it has one of
// two seats; *Process implements it. Who of the two runs the VM is not for the
// lab to say: the seats and their witness find out among themselves, and tell it
// by events of the VM:
//
//	pair.activated   the VM took its first step at {seat, host} since it is the
//	                 active one, by lease {gen}, going on {from} disk, image or machine
//	pair.redirected  its port is up, and the first announcement is on its way
//	pair.synced      the standby holds everything, and may take over
//	pair.degraded    the standby is gone and may not: the VM runs unprotected
//	pair.suspected   the standby hears nothing of the active {by} replication or lease
//	pair.granted     and has been given the lease {gen}
//	pair.lapsed      the active has no lease any more: the VM stands
//	pair.resumed     it has it again
//	pair.fenced      the other has it: what was left of the VM here has ended; it
//	                 took its last step at {ran}
//	pair.failed      a seat cannot do its part, {error}; it tries again
type Protector interface {
	// Protect keeps a seat from now on, whatever becomes of it. It is safe to
	// repeat.
	Protect(ctx context.Context, pair Pair) error
	// Unprotect ends a seat, and the guest where it runs here. Files stay.
	Unprotect(ctx context.Context, vm string) error
	// SwitchOver has an active seat give the VM to its standby, with nothing lost.
	// It returns when that has it, or when the VM goes on here.
	SwitchOver(ctx context.Context, vm string) error
	SeatStatus(ctx context.Context, vm string) (SeatStatus, error)
}

// Pair is a protected VM, as the agent of one of its seats is told it.
type Pair struct {
	VM    string // as everybody calls it
	Seat  string // the node that this seat is: whose folder and socket
	Spec  guest.Spec
	NetNS string // where the seat's namespace is mounted
	// Port is the host's end of the link by which the seat is plugged in, MAC and
	// Addr what it is announced by.
	Port string
	MAC  topo.MAC
	Addr netip.Addr
	// Here and Peer are where replication listens: at this host, and at the other
	// seat's (TCP).
	Here, Peer netip.AddrPort
	Lease      lease.Config
	Replicate  replicate.Options
}

// session is the ID of replication's sessions: who does not know the instance
// is a stranger.
func (p *Pair) session() (id [16]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "replicate %s ", p.VM)
	_ = binary.Write(h, binary.BigEndian, p.Lease.Instance) // a hash takes everything
	copy(id[:], h.Sum(nil))
	return id
}

// SeatStatus is what a seat knows of itself.
type SeatStatus struct {
	Seat, Host string
	Role       lease.Role
	Gen        uint64 // of the lease's record, as far as it knows
	InSync     bool   // the record says that the other may take over
	Alone      bool   // the VM runs unprotected
	Port       bool   // it is up
	// Ran is when the guest last took a step here; 0: never.
	Ran event.Mono
	// Guest is nil where none runs.
	Guest   *guest.Status     `json:",omitempty"`
	Replica *replicate.Report `json:",omitempty"` // of the role that it has, or had last
	Failure string            `json:",omitempty"` // why it does not do its part
}

// protect is Agent.Protect.
func (a *agent) protect(p Pair) error {
	if !a.addr.IsValid() {
		return fmt.Errorf("host %s is not in the network of the hosts", a.host)
	}
	p = p.complete()
	a.seating.Lock()
	defer a.seating.Unlock()
	if s := a.seats[p.VM]; s != nil {
		if !reflect.DeepEqual(s.Pair, p) {
			return fmt.Errorf("%s has a seat at %s, and is another VM or has another standby: it has to end first", p.VM, a.host)
		}
		return nil
	}
	if a.leases == nil {
		keepUp()
		var err error
		if a.leases, err = lease.Listen(a.host, netip.AddrPortFrom(a.addr, lease.Port)); err != nil {
			return err
		}
	}
	s, err := a.newSeat(p)
	if err != nil {
		return fmt.Errorf("seat %s of %s at %s: %w", p.Seat, p.VM, a.host, err)
	}
	a.seats[p.VM] = s
	return nil
}

// seat is a VM's place at this host.
func (a *agent) seat(vm string) (*seat, error) {
	a.seating.Lock()
	defer a.seating.Unlock()
	if s := a.seats[vm]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%s has no seat at %s: %w", vm, a.host, ErrNoVM)
}

// unprotect is Agent.Unprotect.
func (a *agent) unprotect(ctx context.Context, vm string) error {
	a.seating.Lock()
	s := a.seats[vm]
	delete(a.seats, vm)
	a.seating.Unlock()
	if s == nil {
		return nil
	}
	return s.leave(ctx)
}

// leaveSeats ends all seats.
func (a *agent) leaveSeats(ctx context.Context) {
	a.seating.Lock()
	var all []*seat
	for _, s := range a.seats {
		all = append(all, s)
	}
	clear(a.seats)
	leases := a.leases
	a.seating.Unlock()
	for _, s := range all {
		_ = s.leave(ctx) // there is nobody to tell
	}
	if leases != nil {
		_ = leases.Close()
	}
}

// switchOverWithin bounds a planned switch-over: a last checkpoint, and what the
// three of the lease say to each other.
const switchOverWithin = 20 * time.Second
