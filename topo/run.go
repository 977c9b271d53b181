package topo

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
)

// Run is IPv4 prefixes of one length that follow each other: what is routed to
// a site besides its LAN. The zero Run has none. It is comparable.
type Run struct {
	First netip.Prefix `json:"first"`
	Count int          `json:"count"`
}

// IsZero says that there are none.
func (r Run) IsZero() bool { return r.Count == 0 }

// At is prefix number i, from 0.
func (r Run) At(i int) netip.Prefix {
	return netip.PrefixFrom(addr4(r.number(r.First)+uint32(i)<<r.shift()), r.First.Bits())
}

// All are the prefixes in order.
func (r Run) All() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for i := range r.Count {
			if !yield(r.At(i)) {
				return
			}
		}
	}
}

// Has says whether p is one of them.
func (r Run) Has(p netip.Prefix) bool {
	if r.Count == 0 || !p.Addr().Is4() || p.Bits() != r.First.Bits() || p.Addr().Less(r.First.Addr()) {
		return false
	}
	return (r.number(p)-r.number(r.First))>>r.shift() < uint32(r.Count)
}

// Whole is the smallest prefix that holds them all.
func (r Run) Whole() netip.Prefix {
	if r.Count == 0 {
		return netip.Prefix{}
	}
	whole, last := r.First, r.At(r.Count-1).Addr()
	for !whole.Contains(last) {
		whole = netip.PrefixFrom(whole.Addr(), whole.Bits()-1).Masked()
	}
	return whole
}

// Follows says whether q comes right after p in a Run.
func Follows(p, q netip.Prefix) bool {
	r := Run{p, 1}
	return p.Bits() == q.Bits() && p.Addr().Is4() && q.Addr().Is4() && r.number(q) == r.number(p)+1<<r.shift()
}

func (r Run) shift() int { return 32 - r.First.Bits() }

func (r Run) number(p netip.Prefix) uint32 {
	b := p.Addr().As4()
	return binary.BigEndian.Uint32(b[:])
}

func (r Run) String() string {
	switch r.Count {
	case 0:
		return "none"
	case 1:
		return r.First.String()
	}
	return fmt.Sprintf("%d from %s on", r.Count, r.First)
}
