package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// pseudowire is one end of the Ethernet between a VSI here and the same VPLS's
// VSI at another PE. It is comparable: what differs is programmed again.
type pseudowire struct {
	VSI    string     // bridge
	VE     int        // VE ID of the other PE
	Egress netip.Addr // its BGP next hop
	// In is what the other PE puts on its frames: our own label for it. Nobody
	// else uses the number here, so it also names the port (pw20103) and, below
	// the Ethernet of the port, stands for the way there.
	In  uint32
	MTU int
	// The way there: Out is the other PE's label for us, the last of Labels.
	Out    uint32
	Labels fabric.Stack
	Via    netip.Addr
	Dev    string // core interface
}

// pwKey is the place of a pseudowire: one to each VE of a VSI.
type pwKey struct {
	VSI string
	VE  int
}

func (w pseudowire) key() pwKey { return pwKey{w.VSI, w.VE} }

// port is the name of the bridge port.
func (w pseudowire) port() string { return "pw" + strconv.FormatUint(uint64(w.In), 10) }

// samePort says that o differs in the way there at most, which is changed in
// place.
func (w pseudowire) samePort(o pseudowire) bool {
	return w.VSI == o.VSI && w.VE == o.VE && w.In == o.In && w.MTU == o.MTU
}

// reserved is a Flow on a pseudowire: frames from Src to Dst take labels of
// their own. It is comparable.
type reserved struct {
	VSI, Name string
	Port      uint32 // In of the pseudowire
	Src, Dst  topo.MAC
	Labels    fabric.Stack
	Via       netip.Addr
	Dev       string
	In        uint32
}

type flowKey struct{ VSI, Name string }

func (r reserved) key() flowKey { return flowKey{r.VSI, r.Name} }

// label is the reservation's own: the last of the stack.
func (r reserved) label() uint32 {
	labels := stackOf(r.Labels)
	return labels[len(labels)-1]
}

// stackOf is s without the zeros that end it.
func stackOf(s fabric.Stack) []uint32 {
	n := slices.Index(s[:], 0)
	if n < 0 {
		n = len(s)
	}
	return s[:n]
}

// words is a stack as `ip route` writes it.
func words(s fabric.Stack) string {
	var b strings.Builder
	for i, label := range stackOf(s) {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(strconv.FormatUint(uint64(label), 10))
	}
	return b.String()
}

// wiring is what is programmed, or should be.
type wiring struct {
	pws   map[pwKey]pseudowire
	flows map[flowKey]reserved
}

func newWiring() wiring {
	return wiring{map[pwKey]pseudowire{}, map[flowKey]reserved{}}
}

// refusal is why there is no pseudowire where a path asks for one.
type refusal struct {
	Egress netip.Addr
	Why    string
}

// wants is the wiring that the received paths make possible, and why a
// pseudowire that they ask for is not.
func (im *importer) wants(paths map[vplsNLRI]vplsPath, up *reach) (want wiring, refused map[pwKey]refusal) {
	want, refused = newWiring(), map[pwKey]refusal{}
	for i := range im.vsis {
		v := &im.vsis[i]
		best := map[int]vplsPath{} // by VE
		for _, p := range paths {
			if p.NextHop == im.self || p.isHome() || !imported(p.RTs, im.vsiImports[i]) {
				continue
			}
			k := pwKey{v.Name, p.VEID}
			if why := im.refuses(v, p); why != "" {
				if r, ok := refused[k]; !ok || why < r.Why { // one of several, whatever their order
					refused[k] = refusal{p.NextHop, why}
				}
				continue
			}
			if b, ok := best[p.VEID]; !ok || p.before(b) {
				best[p.VEID] = p
			}
		}
		for ve, p := range best {
			w := im.pseudowire(v, p, up)
			want.pws[w.key()] = w
			delete(refused, pwKey{v.Name, ve}) // another path of that VE will do
		}
		im.wantFlows(v, want, up)
	}
	return want, refused
}

func imported(rts []string, by map[string]bool) bool {
	return slices.ContainsFunc(rts, func(rt string) bool { return by[rt] })
}

// refuses says why p cannot become a pseudowire of v, or "".
func (im *importer) refuses(v *VSI, p vplsPath) string {
	from := fmt.Sprintf("VE %d at %s: ", p.VEID, p.NextHop)
	out, inside := p.label(v.VEID)
	_, ours := v.block().label(p.VEID)
	_, resolved := im.tunnels[p.NextHop]
	switch {
	case p.VEID == v.VEID:
		return from + "it has our own VE ID"
	case !ours:
		return from + fmt.Sprintf("our label block has no label for it (%s)", v.block())
	case !inside:
		return from + fmt.Sprintf("its label block has no label for us, VE %d (%s)", v.VEID, p.labelBlock)
	case out < minLabel || out > maxLabel:
		return from + fmt.Sprintf("its label for us is %d: want %d..%d", out, minLabel, maxLabel)
	case !resolved:
		return from + "no LSP leads there"
	}
	if why := p.Layer2.refuse(v.MTU); why != "" {
		return from + why
	}
	return ""
}

// pseudowire is what v builds for p, which it does not refuse.
func (im *importer) pseudowire(v *VSI, p vplsPath, up *reach) pseudowire {
	in, _ := v.block().label(p.VEID)
	out, _ := p.label(v.VEID)
	w := im.way(target{p.NextHop, out}, up)
	return pseudowire{VSI: v.Name, VE: p.VEID, Egress: p.NextHop, In: in, MTU: v.MTU,
		Out: out, Labels: w.Labels, Via: w.Via, Dev: w.Dev}
}

// wantFlows adds the reserved traffic of v whose pseudowire is wanted.
func (im *importer) wantFlows(v *VSI, want wiring, up *reach) {
	for _, f := range v.Flows {
		for _, w := range want.pws {
			if w.VSI != v.Name || w.Egress != f.Egress {
				continue
			}
			r := reserved{VSI: v.Name, Name: f.Name, Port: w.In, Src: f.Src, Dst: f.Dst, Via: f.Via, Dev: f.Dev, In: f.In}
			copy(r.Labels[:], f.Labels)
			if b := f.Backup; b != nil && up.downDev(f.Dev) && !up.downDev(b.Dev) {
				r.Labels, r.Via, r.Dev = fabric.Stack{}, b.Via, b.Dev
				copy(r.Labels[:], b.Labels)
			}
			want.flows[r.key()] = r
		}
	}
}

// wireOp is one change of the wiring in the kernel.
type wireOp struct {
	do   wireVerb
	pw   pseudowire
	flow reserved
}

type wireVerb int

const (
	dropFlow wireVerb = iota
	dropPW
	addPW   // from nothing
	routePW // the way there, and the label for frames from there
	setFlow
)

// diffWiring is what leads from have to want, in the order in which it is to
// be done: a flow never outlives its pseudowire.
func diffWiring(have, want wiring) (ops []wireOp) {
	gone, set := difference(have.pws, want.pws, comparePWs)
	lost := map[uint32]bool{} // ports that go, some of them to come again
	var drop, add []wireOp
	for _, w := range gone {
		lost[w.In] = true
		drop = append(drop, wireOp{do: dropPW, pw: w})
	}
	for _, w := range set {
		h, there := have.pws[w.key()]
		switch {
		case !there:
			add = append(add, wireOp{do: addPW, pw: w})
		case w.samePort(h):
			add = append(add, wireOp{do: routePW, pw: w})
		default:
			lost[h.In] = true
			drop = append(drop, wireOp{do: dropPW, pw: h})
			add = append(add, wireOp{do: addPW, pw: w})
		}
	}
	var put []wireOp
	for _, f := range sortedFlows(have.flows) {
		w, stays := want.flows[f.key()]
		if !stays || lost[f.Port] || (w != f && !f.sameMatch(w)) {
			ops = append(ops, wireOp{do: dropFlow, flow: f})
		}
	}
	for _, f := range sortedFlows(want.flows) {
		if h, there := have.flows[f.key()]; !there || h != f || lost[h.Port] {
			put = append(put, wireOp{do: setFlow, flow: f})
		}
	}
	return slices.Concat(ops, drop, add, put)
}

// sameMatch says that r's filters take the place of o's; otherwise those have
// to be removed.
func (r reserved) sameMatch(o reserved) bool {
	return r.Port == o.Port && r.Src == o.Src && r.Dst == o.Dst && r.label() == o.label() && r.In == o.In
}

func comparePWs(a, b pseudowire) int {
	return cmp.Or(strings.Compare(a.VSI, b.VSI), cmp.Compare(a.VE, b.VE))
}

func sortedFlows(m map[flowKey]reserved) []reserved {
	out := make([]reserved, 0, len(m))
	for _, f := range m {
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b reserved) int {
		return cmp.Or(strings.Compare(a.VSI, b.VSI), strings.Compare(a.Name, b.Name))
	})
	return out
}
