// Package liveness is how the processes of one router tell each other which of
// its neighbours and links are alive: the router's repair process (package
// repair) knows, by carrier and by BFD (RFC 5880), and whoever forwards packets
// to them wants to hear of it within a millisecond, not by way of BGP.
//
// It goes over an abstract unix socket, of which each network namespace has its
// own: two routers of a lab do not hear each other.
package liveness

import (
	"net/netip"

	"github.com/vpclab/vpclab/emu/event"
)

// Socket is the name in the router's namespace; what follows @ is abstract.
const Socket = "@vpclab-liveness"

// State is one line: what is known of one neighbour or link. Who connects is
// told the state of everything first.
type State struct {
	At event.Mono `json:"at"` // when it was found out
	// Dev is the link, for a neighbour at its other end; Peer is the
	// neighbour's address: on the link, or the loopback of a router further away
	// (multihop BFD, RFC 5883), where Dev is "".
	Dev  string     `json:"dev,omitempty"`
	Peer netip.Addr `json:"peer"`
	Up   bool       `json:"up"`
	By   string     `json:"by"` // who found it out: carrier, bfd, bfd-multihop
}
