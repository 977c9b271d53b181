package bgp

import (
	"net/netip"

	"github.com/vpclab/vpclab/emu/liveness"
	"github.com/vpclab/vpclab/topo"
)

// reach is what this PE has found out without BGP: which of its links and which
// other PEs are down. Whatever it has not heard of is up.
type reach struct {
	heard map[subject]string // all that is down, and by whom that was found out
	lost  []netip.Addr       // PEs that the controller holds to be out of reach
	// What follows from heard.
	peers  map[netip.Addr]bool // PEs that are down
	links  map[string]bool     // own links that are down
	silent map[string]bool     // those of them that have a carrier, as far as is known
	// dark are the links without a carrier, or that were set down: the kernel has
	// removed the shared next hops that led there.
	dark map[string]bool
}

// subject is what the repair process speaks of: a link with the neighbour at its
// end, or a PE further away.
type subject struct {
	dev  string
	peer netip.Addr
}

func newReach() *reach {
	return &reach{heard: map[subject]string{}, peers: map[netip.Addr]bool{}, links: map[string]bool{}, silent: map[string]bool{}, dark: map[string]bool{}}
}

// hear takes what the router's repair process says, and reports whether it is
// news.
func (r *reach) hear(s liveness.State) bool {
	k := subject{s.Dev, s.Peer}
	if _, down := r.heard[k]; down != s.Up {
		return false
	}
	if s.Up {
		delete(r.heard, k)
	} else {
		r.heard[k] = s.By
	}
	r.conclude()
	return true
}

// told takes the controller's word (Tunnel.Lost).
func (r *reach) told(tunnels []Tunnel) {
	r.lost = nil
	for _, t := range tunnels {
		if t.Lost {
			r.lost = append(r.lost, t.Egress)
		}
	}
	r.conclude()
}

// deaf forgets all that the repair process said.
func (r *reach) deaf() (news bool) {
	news = len(r.heard) > 0
	clear(r.heard)
	r.conclude()
	return news
}

func (r *reach) conclude() {
	clear(r.peers)
	clear(r.links)
	clear(r.silent)
	for _, pe := range r.lost {
		r.peers[pe] = true
	}
	for s, by := range r.heard {
		if s.dev == "" {
			r.peers[s.peer] = true
			continue
		}
		r.links[s.dev] = true
		if by != topo.DetectCarrier {
			r.silent[s.dev] = true
		}
	}
}

// downDev says that nothing gets through by dev.
func (r *reach) downDev(dev string) bool { return r.links[dev] }
