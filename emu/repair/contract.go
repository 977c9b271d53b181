// Package repair is a router's reflexes: a process of its own in the router's
// namespace that watches its links (carrier) and neighbours (BFD), and puts
// routes that were prepared beforehand in place of those that have failed
// (facility bypass, RFC 4090 section 3.2), without asking anybody. It tells the
// controller and, by package liveness, the router's BGP speaker.
package repair

import (
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/fabric"
)

// Config is what one router's process is told; it is sent whole each time.
type Config struct {
	Node    string
	Carrier bool // watch the carriers of Links
	Links   []Link
	// Multihop are sessions with routers further away: loopbacks.
	Multihop []Multihop
	BFD      Timers // zero interval: none
	Protect  []Protection
}

// Timers of BFD.
type Timers struct {
	Interval   time.Duration // desired and required, at least 10 ms
	Multiplier int           // packets missed until the session is down
}

// Link is a core link of the router.
type Link struct {
	Dev         string
	Local, Peer netip.Addr
}

// Multihop is a session between loopbacks.
type Multihop struct{ Local, Peer netip.Addr }

// Protection is what takes a route's place while the link that it uses is down.
// Exactly one pair is set.
type Protection struct {
	Dev          string // of the link that is watched
	MPLS, MPLSBy *fabric.MPLSRoute
	IP, IPBy     *fabric.Route
}
