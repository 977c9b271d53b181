package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
)

// labelBlock is how a PE gives out labels for a VPLS: one announcement serves
// all others (RFC 4761 section 3.2.1). The PE with VE ID v sends to it with
// the label Base+v-Offset, for v from Offset to Offset+Size-1.
type labelBlock struct {
	Offset, Size int
	Base         uint32
}

// label is what ve sends with; false: the block has none for it.
func (b labelBlock) label(ve int) (uint32, bool) {
	if ve < b.Offset || ve >= b.Offset+b.Size {
		return 0, false
	}
	return b.Base + uint32(ve-b.Offset), true
}

func (b labelBlock) String() string {
	return fmt.Sprintf("labels %d-%d for VE %d-%d", b.Base, int(b.Base)+b.Size-1, b.Offset, b.Offset+b.Size-1)
}

// vplsNLRI is what BGP tells one VPLS path from another by (RFC 4761 section
// 3.2.2). GoBGP takes the label block as a part of it: an announcement with
// another block does not replace the one before, which has to be withdrawn.
type vplsNLRI struct {
	RD   string
	VEID int
	labelBlock
}

// layer2 is the Layer2 Info extended community (RFC 4761 section 3.2.4): how
// frames are to come. The zero value stands for a path without one.
type layer2 struct {
	Encaps uint8
	Flags  uint8 // C and S: with control word, in sequence
	MTU    int   // of the frames' payload
}

const (
	encapsVPLS  = uint8(bgp.LAYER2ENCAPSULATION_TYPE_VPLS)
	flagControl = 1 << 1
	flagInOrder = 1 << 0
)

// refuse says why a pseudowire cannot be built to one who wants frames like
// this, or "".
func (l layer2) refuse(mtu int) string {
	switch {
	case l == (layer2{}):
		return "it says no encapsulation and MTU (Layer2 Info)"
	case l.Encaps != encapsVPLS:
		return fmt.Sprintf("it wants encapsulation %d, not %d (VPLS)", l.Encaps, encapsVPLS)
	case l.Flags&flagControl != 0:
		return "it wants a control word, which the kernel does not write"
	case l.Flags&flagInOrder != 0:
		return "it wants sequence numbers, which the kernel does not write"
	case l.MTU != mtu:
		return fmt.Sprintf("its MTU is %d, ours %d", l.MTU, mtu)
	}
	return ""
}

// vplsPath is a VPLS best path as GoBGP reports it.
type vplsPath struct {
	vplsNLRI
	NextHop netip.Addr
	RTs     []string
	Layer2  layer2
	Pref    int // LOCAL_PREF
}

// before orders the paths of one VE: by next hop as routes are, and between
// an old and a new block of one PE by the block, until the old one is
// withdrawn.
func (p vplsPath) before(q vplsPath) bool {
	return cmp.Or(p.NextHop.Compare(q.NextHop), strings.Compare(p.RD, q.RD), cmp.Compare(p.Base, q.Base), cmp.Compare(p.Size, q.Size)) < 0
}

// vplsExport is the one path that this PE originates for a VSI. It is
// comparable: a changed one is announced again.
type vplsExport struct {
	vplsNLRI
	VSI string
	MTU int
	RTs string // separated by spaces
	// Of a site at two PEs: our preference, and whether we forward.
	Pref     int
	Forwards bool
}

// vplsExports lists what c originates. A VSI that no site has joined says
// nothing, nor is anything said of a site's circuit without a carrier; open are
// the ports by which we forward.
func (c *Config) vplsExports(up *reach, open map[string]bool) map[vplsNLRI]vplsExport {
	m := map[vplsNLRI]vplsExport{}
	for _, v := range c.VSIs {
		if len(v.ExportRTs) == 0 {
			continue
		}
		rts := slices.Clone(v.ExportRTs)
		slices.Sort(rts)
		e := vplsExport{vplsNLRI: vplsNLRI{v.RD, v.VEID, v.block()}, VSI: v.Name, MTU: v.MTU, RTs: strings.Join(slices.Compact(rts), " ")}
		m[e.vplsNLRI] = e
		for _, h := range v.Homed {
			if up.dark[h.Port] {
				continue
			}
			e.vplsNLRI, e.Pref, e.Forwards = vplsNLRI{RD: v.RD, VEID: h.ID}, h.Preference, open[h.Port]
			m[e.vplsNLRI] = e
		}
	}
	return m
}

// block is what we give out: In labels.
func (v *VSI) block() labelBlock {
	return labelBlock{Offset: v.BlockOffset, Size: v.BlockSize, Base: v.LabelBase}
}

// difference compares what is with what should be: what is gone, and what is
// new or changed, each in order.
func difference[K comparable, V comparable](have, want map[K]V, order func(a, b V) int) (gone, set []V) {
	for k, h := range have {
		if _, ok := want[k]; !ok {
			gone = append(gone, h)
		}
	}
	for k, w := range want {
		if h, ok := have[k]; !ok || h != w {
			set = append(set, w)
		}
	}
	slices.SortFunc(gone, order)
	slices.SortFunc(set, order)
	return gone, set
}

func compareVPLSExports(a, b vplsExport) int { return compareNLRIs(a.vplsNLRI, b.vplsNLRI) }

func compareNLRIs(a, b vplsNLRI) int {
	return cmp.Or(strings.Compare(a.RD, b.RD), cmp.Compare(a.VEID, b.VEID), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Base, b.Base))
}
