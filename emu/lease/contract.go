// Package lease decides which of two hosts may run a VM. Each side needs the
// word of a majority of three, the two hosts and a witness in a third site, and
// has it for a time only: whoever cannot renew stops by itself before anybody
// else can begin. No message, however late, lost or doubled, and no crash makes
// two run at the same time; a test goes through all of them (docs/fencing.md).
//
// Holder (a host's part) and Witness are state machines with neither clock nor
// network: they are told the time and what arrived, and say what is to be sent.
// What is assumed of clocks is only that they run at nearly the same rate
// (Config.Drift). Node and Seat drive holders over UDP; Run is the witness's
// process and Process the lab's handle of it.
//
// Who replicates a VM uses a Seat like this:
//
//	active   Active() right before anything is done in the VM's name
//	         Alone()    the standby does not answer; once State.Unprotected, output
//	                    need not wait for it any more
//	         Protect()  output waits again: before the checkpoint that the standby
//	                    comes back by is taken
//	         Synced()   the standby has acknowledged that checkpoint
//	         Hand()     planned switch-over: the VM stands and its last checkpoint
//	                    is acknowledged
//	standby  Has(Image) a whole image is here; Has(Nothing) it is not any more
//
// and acts on what Seat tells it of its role: an Active begins as State.From says,
// a Lapsed stands and waits, a Fenced says what it keeps (Has).
package lease

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Role is what a host is to a VM by its own knowledge.
type Role string

const (
	Forgotten Role = "forgotten" // it holds nothing that may be taken over
	Standby   Role = "standby"   // it holds an image of the VM, and watches
	Taking    Role = "taking"    // it asks for the VM, and does not run it yet
	Active    Role = "active"    // it runs the VM, until its lease ends
	Handing   Role = "handing"   // it has stopped the VM and is giving it to the standby
	Lapsed    Role = "lapsed"    // its lease has ended: the VM must stand, and may go on if the lease is had again
	// Fenced: the other host has the VM, and what is left of it here must not run
	// any more. Who is told so says what becomes of it (Holder.Has): kept as it
	// stands it is an Image, in sync for as long as the record says so; else Nothing.
	Fenced Role = "fenced"
)

// Have is what a host has of a VM.
type Have uint8

const (
	Nothing Have = iota // or what nobody may rely on
	Disk                // the VM can be booted from what is here, if no more is left of it anywhere
	Image               // a standby's whole checkpoint, no less than it ever acknowledged, from which the VM has not begun yet
	Machine             // the VM itself, as it ran here last
)

// Party is one of the three that vote.
type Party uint8

const (
	HostA Party = iota // Config.Members[0], and so on
	HostB
	Third // the witness
)

// Other is the other host.
func (p Party) Other() Party { return HostB - p }

// Record is what the witness knows of a VM and keeps on its disk. Each change
// has the next generation, so that a record says everything by that number.
type Record struct {
	Gen    uint64 // 1: as the lab began it; the fencing token
	Holder Party  // who has the VM
	InSync bool   // whether the other host may take it over
}

// State is what a host knows of its part.
type State struct {
	Role   Role
	From   Have   // of an active: what the VM goes on from
	Record Record // the latest that is known; zero: none
	// Until is when the lease ends by this host's clock; of a role other than
	// Active it says nothing.
	Until event.Mono
	// Unprotected: the witness has recorded that the standby may not take over.
	// Output need not wait for it.
	Unprotected bool
}

// Member is one of three.
type Member struct {
	Name string         `json:"name"`
	Addr netip.AddrPort `json:"addr"` // UDP; see Port
}

// Port is the UDP port of hosts and witnesses, by default.
const Port = 7625

// Config of one VM's lease; the same at all three.
type Config struct {
	VM string `json:"vm"` // at most MaxName bytes
	// Instance tells this VM from an earlier one of the same name: drawn at
	// random when the lab first starts the VM, and kept from then on. A witness
	// forgets what it recorded of another instance.
	Instance uint64        `json:"instance"`
	Members  [3]Member     `json:"members"` // the two hosts and the witness, in this order
	Term     time.Duration `json:"term"`    // of a lease, from when it was asked for; default 300 ms
	Renew    time.Duration `json:"renew"`   // how often it is renewed; default a fifth of Term
	Drift    float64       `json:"drift"`   // how much faster one clock may run than another; default 0.01
	Silence  time.Duration `json:"silence"` // without a sign of life of the active until it is suspected; default 200 ms
}

// MaxName bounds a VM's name.
const MaxName = 63

// Party is the member of that name.
func (c Config) Party(name string) (Party, bool) {
	for i, m := range c.Members {
		if m.Name == name {
			return Party(i), true
		}
	}
	return 0, false
}

// Checked is c with its defaults, or what is wrong with it.
func (c Config) Checked() (Config, error) {
	if c.Term == 0 {
		c.Term = 300 * time.Millisecond
	}
	if c.Renew == 0 {
		c.Renew = c.Term / 5
	}
	if c.Drift == 0 {
		c.Drift = 0.01
	}
	if c.Silence == 0 {
		c.Silence = 200 * time.Millisecond
	}
	switch {
	case c.VM == "" || len(c.VM) > MaxName:
		return c, fmt.Errorf("lease of VM %q: want a name of 1 to %d bytes", c.VM, MaxName)
	case c.Term < 0 || c.Silence < 0 || c.Renew <= 0 || c.Renew >= c.Term:
		return c, fmt.Errorf("lease of %s: term %v, renewed every %v, silence %v: want a term longer than it takes to be renewed", c.VM, c.Term, c.Renew, c.Silence)
	case !(c.Drift > 0 && c.Drift <= 1):
		return c, fmt.Errorf("lease of %s: drift %v: want more than 0, and 1 (one clock runs twice as fast) at most", c.VM, c.Drift)
	}
	for i, m := range c.Members {
		if m.Name == "" || !m.Addr.IsValid() || m.Addr.Port() == 0 {
			return c, fmt.Errorf("lease of %s: member %d is %q at %v: want a name and an address", c.VM, i, m.Name, m.Addr)
		}
		for _, n := range c.Members[:i] {
			if n.Name == m.Name || n.Addr == m.Addr {
				return c, fmt.Errorf("lease of %s: %s at %v and %s at %v: want three different members", c.VM, n.Name, n.Addr, m.Name, m.Addr)
			}
		}
	}
	return c, nil
}

// guard is how long a giver counts a lease of c.Term, so that it outlasts the
// holder's own count of it however their clocks run.
func (c Config) guard() time.Duration {
	return c.Term + time.Duration(math.Ceil(float64(c.Term)*c.Drift))
}

// Errors that a caller decides by.
var (
	// ErrNotActive: only who runs the VM may ask for that.
	ErrNotActive = errors.New("this host does not have the VM")
	// ErrNotInSync: the standby may not take the VM over, so it cannot be given it.
	ErrNotInSync = errors.New("the standby is not recorded as in sync")
	// ErrNoWitness: without the witness nobody can hand the VM over.
	ErrNoWitness = errors.New("the witness does not answer")
)
