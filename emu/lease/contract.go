// Package lease decides which of two hosts may run a VM. Each side needs the
// word of a majority of three, the two hosts and a witness in a third site, and
// has it for a time only: whoever cannot renew stops by itself before anybody
// else can begin. No message, however late, lost or doubled, and no crash makes
// two run at the same time; a test goes through all of them.
//
// The state machines have neither clock nor network: they are told the time and
// what arrived, and say what is to be sent and done. What is assumed of clocks
// is only that they run at nearly the same rate (Config.Drift).
package lease

import "time"

// Role is what a host is to a VM by its own knowledge.
type Role string

const (
	Active    Role = "active"    // it runs the VM, until its lease ends
	Standby   Role = "standby"   // it holds what the VM needs, and watches
	Taking    Role = "taking"    // it asks for the lease
	Fenced    Role = "fenced"    // it had the VM and may not run it any more
	Forgotten Role = "forgotten" // it holds nothing that may be taken over
)

// Config of one VM's lease; the same at all three.
type Config struct {
	VM      string
	Term    time.Duration // of a lease, from when it was asked for; default 300 ms
	Renew   time.Duration // how often it is renewed; default a fifth of Term
	Drift   float64       // how much faster one clock may run than another; default 0.01
	Silence time.Duration // without a sign of life of the active until it is suspected; default 200 ms
}
