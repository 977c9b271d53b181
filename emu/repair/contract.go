// Package repair is a router's reflexes: a process of its own in the router's
// namespace that watches its links (carrier) and neighbours (BFD), and puts
// routes that were prepared beforehand in place of those that have failed
// (facility bypass, RFC 4090 section 3.2), without asking anybody. It tells the
// controller and, by package liveness, the router's BGP speaker.
//
// Division of labour. In the lab:
//
//   - configs.go and protect.go: what each router's process is told, from a plan;
//   - process.go: the handle of a process: [Start], Configure, Status, Stop;
//   - control.go: what is said between the two.
//
// In the router's process, which is one loop on one thread:
//
//   - run.go: [Run]: waits for everything at once, by system calls of its own;
//   - reflex.go: which links and peers are alive, and what follows for routes; it
//     knows neither kernel nor clock;
//   - kernel.go: interfaces and routes; rank.go: before whom the process runs.
//
// # Events
//
// liveness.down and liveness.up {dev, peer, by}: a neighbour on a link, or
// without dev a router further away. repair.switched and repair.restored {dev,
// routes, took}: took is from when it was found out until the kernel had the
// routes. repair.forgotten {dev, routes}: what the kernel had dropped was put back.
// bfd.up and bfd.down {dev, peer, diag}: a session. repair.refused {error}: by
// the kernel. repair.exit {status, stderr}: by the parent.
package repair

import (
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/fabric"
)

// Config is what one router's process is told; it is sent whole each time.
type Config struct {
	Node    string
	Carrier bool // a link without carrier is down
	Links   []Link
	BFD     Timers // of sessions on Links; zero interval: none
	// Multihop are sessions with routers further away, loopback to loopback.
	Multihop    []Multihop
	MultihopBFD Timers
	// Routes are IP routes that the kernel forgets when the interface that they
	// use is taken down: they are put back when it is up again.
	Routes []fabric.Route
	// Labels is the router's incoming label map.
	Labels  []fabric.MPLSRoute
	Protect []Protection
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
