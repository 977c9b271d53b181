package bgp

import (
	"net/netip"

	"github.com/vpclab/vpclab/emu/fabric"
)

// way is how packets get to a VPN behind another PE: the label that this PE
// gave out for it (RFC 4364 section 5), under those of the LSP that leads
// there, which are none where it is the neighbour. The stack is written out
// because the kernel does not resolve a labelled next hop over another route.
// It is comparable.
type way struct {
	Egress netip.Addr   // BGP next hop
	Labels fabric.Stack // all of them
	Via    netip.Addr
	Dev    string
}

// target is where a path leads: whoever has the same one goes the same way.
type target struct {
	Egress netip.Addr
	Label  uint32
}

func (p path) target() target { return target{p.NextHop, p.Label} }

// ways are those to t, the usual one first, then the one that is prepared for
// the time when its link is down; none where no tunnel leads there.
func (im *importer) ways(t target) []way {
	tunnel, ok := im.tunnels[t.Egress]
	if !ok {
		return nil
	}
	out := append(make([]way, 0, 2), way{t.Egress, under(t.Label, tunnel.labels()), tunnel.Via, tunnel.Dev})
	if b := tunnel.Backup; b != nil {
		out = append(out, way{t.Egress, under(t.Label, b.Labels), b.Via, b.Dev})
	}
	return out
}

// way is the first of the ways to t that is not down, or the first.
func (im *importer) way(t target, up *reach) way {
	ways := im.ways(t)
	for _, w := range ways {
		if !up.downDev(w.Dev) {
			return w
		}
	}
	return ways[0]
}

func (t Tunnel) labels() []uint32 {
	if t.Label == 0 {
		return nil
	}
	return []uint32{t.Label}
}

// under is the stack with label below others; Validate sees to it that there is
// room.
func under(label uint32, others []uint32) (s fabric.Stack) {
	s[copy(s[:], others)] = label
	return s
}

// stack is the label stack as in `ip route`: outermost first.
func (w way) stack() string { return words(w.Labels) }
