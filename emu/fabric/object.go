package fabric

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// rank is the order in which kinds of objects are made; they are removed the
// other way round.
type rank int

const (
	rankNS rank = iota
	rankSysctl
	rankDevice // bridges, VRFs
	rankLink
	rankMaster
	rankAddr
	rankQdisc
	rankClass // divisions of a line
	rankBlock
	rankDeaf // an end that loses what arrives
	rankRule
	rankRoute
	rankLabel
	rankInput // MPLS input of a device
)

// key names one object of a lab. Link objects are filed under their A end.
type key struct {
	rank rank
	node string
	dev  string // device it is or hangs on, if any
	name string // what tells it from others of the same device or node
}

// object is a comparable value: what is under a key.
type object any

type (
	nsObj     struct{ kind topo.NodeKind }
	sysctlObj struct{ value string }
	bridgeObj struct {
		mac    topo.MAC
		ageing time.Duration
		down   bool // never wanted, but it happens
	}
	vrfObj struct {
		table int
		down  bool
	}
	linkObj struct {
		peerNode, peerIf string
		mac, peerMAC     topo.MAC
		mtu              int
		down             downEnds
		seat             topo.Seat // B is up or down as it likes
	}
	masterObj struct {
		master string
		closed bool // as it is made; nobody looks again
	}
	addrObj   struct{ prefix netip.Prefix }
	qdiscObj  struct{ egress }
	blockObj  struct{ block uint32 }
	deafObj   struct{}
	sharedObj struct{ shared }
	classObj  struct{ reserved }
	strayObj  struct{ stray } // never wanted, but it happens
	ruleObj   struct{ Rule }
	routeObj  struct{ Route }
	labelObj  struct{ MPLSRoute }
	inputObj  struct{}
)

// downEnds tells which ends of a link are down.
type downEnds uint8

const (
	noEnd    downEnds = 0
	endA     downEnds = 1 // wanted only of what a fault did
	endB     downEnds = 2 // likewise
	bothEnds          = endA | endB
)

// objects is a State taken apart.
type objects map[key]object

// vrfMetric is the metric of a VRF's unreachable default route: the worst
// there is, as the kernel's VRF documentation has it, so that any other
// default wins.
const vrfMetric = 4278198272

// The kernel keeps a bridge's times in hundredths of a second.
const (
	defaultAgeing = 300 * time.Second
	ageingStep    = 10 * time.Millisecond
)

// ageingOf is what the kernel makes of a Bridge's Ageing.
func ageingOf(d time.Duration) time.Duration {
	if d == 0 {
		return defaultAgeing
	}
	return (d + ageingStep - 1).Truncate(ageingStep)
}

var defaultRoute = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// flatten takes a State apart. Routes without a device get the one whose
// subnet holds the next hop, so that they compare equal to what the kernel
// says of them. Routes over a link that is down are left out: the kernel drops
// them and takes no new ones. So are its queueing disciplines: a class of HFSC
// in which packets wait when the device goes down never sends again (the
// kernel throws the packets away, but the class passes for one that still
// waits its turn; seen on 6.1.176), so they are made anew when it comes up. An end
// whose other end alone is down has no carrier, which is the same to them.
func flatten(s State) objects {
	o := make(objects, 4*len(s.Nodes)+3*len(s.Links))
	down := map[end]bool{}    // ends of links
	unlined := map[end]bool{} // those of which at least one is down
	subnets := s.searched()   // node -> subnet -> device
	subnet := func(node, dev string, p netip.Prefix) {
		if of := subnets[node]; of != nil && p.IsValid() {
			of[p.Masked()] = dev
		}
	}
	for _, l := range s.Links {
		link := linkObj{l.B.Node, l.B.Ifname, l.A.MAC, l.B.MAC, l.MTU, l.dark, l.Seat}
		if l.Down {
			link.down = bothEnds
		}
		o[key{rankLink, l.A.Node, l.A.Ifname, ""}] = link
		for i, e := range [2]End{l.A, l.B} {
			if link.down != noEnd {
				down[end{e.Node, e.Ifname}] = link.down&(endA<<i) != 0
				unlined[end{e.Node, e.Ifname}] = true
			}
			o.addEnd(e)
			if l.deaf&(endA<<i) != 0 {
				o[key{rankDeaf, e.Node, e.Ifname, ""}] = deafObj{}
			}
			subnet(e.Node, e.Ifname, e.Addr)
		}
	}
	for name, n := range s.Nodes {
		for _, b := range n.Bridges {
			subnet(name, b.Name, b.Addr)
		}
		o.addNode(name, n, subnets[name])
	}
	if len(unlined) > 0 {
		maps.DeleteFunc(o, func(k key, v object) bool {
			if r, ok := v.(routeObj); ok {
				return down[end{k.node, r.Dev}]
			}
			return (k.rank == rankQdisc || k.rank == rankClass) && unlined[end{k.node, k.dev}]
		})
	}
	return o
}

// searched are the nodes of which the subnets have to be known: those with a
// route without a device.
func (s State) searched() map[string]map[netip.Prefix]string {
	out := map[string]map[netip.Prefix]string{}
	for name, n := range s.Nodes {
		for _, r := range n.Routes {
			if r.Dev == "" && r.Via.IsValid() {
				out[name] = map[netip.Prefix]string{}
				break
			}
		}
	}
	return out
}

func (o objects) addNode(name string, n Node, subnets map[netip.Prefix]string) {
	o[key{rankNS, name, "", ""}] = nsObj{n.Kind}
	for k, v := range n.Sysctls {
		o[key{rankSysctl, name, "", k}] = sysctlObj{v}
	}
	for _, p := range n.Lo {
		o[addrKey(name, "lo", p)] = addrObj{p}
	}
	for _, b := range n.Bridges {
		o[key{rankDevice, name, b.Name, ""}] = bridgeObj{mac: b.MAC, ageing: ageingOf(b.Ageing)}
		if b.Addr.IsValid() {
			o[addrKey(name, b.Name, b.Addr)] = addrObj{b.Addr}
		}
	}
	for _, v := range n.VRFs {
		o[key{rankDevice, name, v.Name, ""}] = vrfObj{table: v.Table}
		o.addRoute(name, Route{Table: v.Table, Dst: defaultRoute, Metric: vrfMetric, Unreachable: true})
	}
	for _, r := range n.Routes {
		if r.Dev == "" && r.Via.IsValid() {
			r.Dev = deviceTo(r.Via, subnets)
		}
		o.addRoute(name, r)
	}
	for _, m := range n.MPLS {
		o[labelKey(name, m.In)] = labelObj{m}
	}
	for _, r := range n.Rules {
		r = r.canonical()
		o[ruleKey(name, r)] = ruleObj{r}
	}
}

// deviceTo is the device whose subnet holds via; the longest prefix wins.
func deviceTo(via netip.Addr, subnets map[netip.Prefix]string) (dev string) {
	best := -1
	for p, d := range subnets {
		if p.Bits() > best && p.Contains(via) {
			best, dev = p.Bits(), d
		}
	}
	return dev
}

func (o objects) addEnd(e End) {
	if e.Master != "" {
		o[key{rankMaster, e.Node, e.Ifname, ""}] = masterObj{e.Master, e.Closed}
	}
	if e.Addr.IsValid() {
		o[addrKey(e.Node, e.Ifname, e.Addr)] = addrObj{e.Addr}
	}
	if e.MPLSInput {
		o[key{rankInput, e.Node, e.Ifname, ""}] = inputObj{}
	}
	if q := egressOf(e.Egress); q != (egress{}) {
		o[key{rankQdisc, e.Node, e.Ifname, ""}] = qdiscObj{q}
		o.addClasses(e, q)
	}
	if e.Block != 0 {
		o[key{rankBlock, e.Node, e.Ifname, ""}] = blockObj{e.Block}
	}
}

// addRoute files a route under what makes it one of its kind in the kernel.
func (o objects) addRoute(node string, r Route) {
	r.Dst = r.Dst.Masked()
	if r.Table == mainTable {
		r.Table = 0
	}
	name := r.Dst.String()
	if r.Table != 0 {
		name += " table " + strconv.Itoa(r.Table)
	}
	if r.Metric != 0 {
		name += " metric " + strconv.Itoa(r.Metric)
	}
	o[key{rankRoute, node, "", name}] = routeObj{r}
}

// mainTable is RT_TABLE_MAIN, which a Route calls 0.
const mainTable = 254

func addrKey(node, dev string, p netip.Prefix) key { return key{rankAddr, node, dev, p.String()} }

func labelKey(node string, in uint32) key {
	return key{rankLabel, node, "", strconv.FormatUint(uint64(in), 10)}
}

// canonical writes "everything" in one way, as the kernel does.
func (r Rule) canonical() Rule {
	for _, p := range []*netip.Prefix{&r.From, &r.To} {
		*p = p.Masked()
		if p.Bits() <= 0 {
			*p = netip.Prefix{}
		}
	}
	return r
}

// selector is what a rule matches: "from 10.0.0.0/8 iif eth1", or "".
func (r Rule) selector() string {
	s := ""
	if r.From.IsValid() {
		s += " from " + r.From.String()
	}
	if r.To.IsValid() {
		s += " to " + r.To.String()
	}
	if r.Iif != "" {
		s += " iif " + r.Iif
	}
	return s
}

func ruleKey(node string, r Rule) key {
	name := strconv.Itoa(r.Pref) + r.selector() + " table " + strconv.Itoa(r.Table)
	if r.Del {
		name = "no " + name // sorts behind the numbers: first add, then delete
	}
	return key{rankRule, node, "", name}
}

// keys lists the keys by rank, node and name.
func (o objects) keys() []key {
	keys := make([]key, 0, len(o))
	for k := range o {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, key.compare)
	return keys
}

func (k key) compare(l key) int {
	switch {
	case k.rank != l.rank:
		return cmp.Compare(k.rank, l.rank)
	case k.node != l.node:
		return strings.Compare(k.node, l.node)
	case k.dev != l.dev:
		return strings.Compare(k.dev, l.dev)
	case len(k.name) != len(l.name) && k.rank == rankLabel:
		return len(k.name) - len(l.name) // labels by number
	}
	return strings.Compare(k.name, l.name)
}

// describe is the object in words: "pe1: bridge lan", and its value.
func (k key) describe(o object) (name, detail string) {
	at := k.node + ":" + k.dev
	switch v := o.(type) {
	case nsObj:
		return "node " + k.node, string(v.kind)
	case unnamed:
		return "node " + k.node, "name lost"
	case sysctlObj:
		return k.node + ": sysctl " + k.name, v.value
	case bridgeObj:
		return k.node + ": bridge " + k.dev, v.String()
	case vrfObj:
		return k.node + ": vrf " + k.dev, state("table "+strconv.Itoa(v.table), v.down)
	case linkObj:
		return "link " + at + "--" + v.peerNode + ":" + v.peerIf,
			fmt.Sprintf("mtu %d, %v, %v%s", v.mtu, v.mac, v.peerMAC, [...]string{noEnd: "", endA: ", first end down", endB: ", second end down", bothEnds: ", down"}[v.down])
	case masterObj:
		return at + ": port", "of " + v.master
	case addrObj:
		return at + ": address " + k.name, ""
	case qdiscObj:
		return at + ": impairment", v.egress.String()
	case sharedObj:
		return at + ": shared line", v.shared.String()
	case classObj:
		return at + ": reserved for " + k.name, v.reserved.String()
	case strayObj:
		return at + ": " + k.name, ""
	case blockObj:
		return at + ": ingress filters", fmt.Sprintf("block %d", v.block)
	case deafObj:
		return at + ": deaf", ""
	case ruleObj:
		verb := "lookup"
		if v.Del {
			verb = "no lookup"
		}
		return k.node + ": rule " + strconv.Itoa(v.Pref) + v.selector(), verb + " " + strconv.Itoa(v.Table)
	case routeObj:
		return k.node + ": route " + k.name, v.how()
	case labelObj:
		return k.node + ": label " + k.name, v.how()
	case inputObj:
		return at + ": mpls input", ""
	}
	return at + " " + k.name, ""
}

func (b bridgeObj) String() string {
	s := b.mac.String()
	if b.ageing != defaultAgeing {
		s += ", ageing " + b.ageing.String()
	}
	return state(s, b.down)
}

func state(s string, down bool) string {
	if down {
		return s + ", down"
	}
	return s
}

// how is what a route does, without its destination.
func (r Route) how() string {
	switch {
	case r.Unreachable:
		return "unreachable"
	case r.Local:
		return "local"
	}
	var s []string
	if l := stack(r.Labels); len(l) > 0 {
		s = append(s, "push "+slashed(l))
	}
	s = append(s, nextHop(r.Via, r.Dev)...)
	if r.Src.IsValid() {
		s = append(s, "src "+r.Src.String())
	}
	return strings.Join(s, " ")
}

func (m MPLSRoute) how() string {
	s := []string{"pop"}
	if l := stack(m.Out); len(l) > 0 {
		s[0] = "swap " + slashed(l)
	}
	s = append(s, nextHop(m.Via, m.Dev)...)
	if m.NoTTLPropagate {
		s = append(s, "ttl-propagate disabled")
	}
	return strings.Join(s, " ")
}

func nextHop(via netip.Addr, dev string) (s []string) {
	if via.IsValid() {
		s = append(s, "via "+via.String())
	}
	if dev != "" {
		s = append(s, "dev "+dev)
	}
	return s
}

// slashed is a label stack as ip-route(8) writes it.
func slashed(labels []uint32) string {
	s := make([]string, len(labels))
	for i, l := range labels {
		s[i] = strconv.FormatUint(uint64(l), 10)
	}
	return strings.Join(s, "/")
}

// stack cuts an array at its first 0.
func stack(a Stack) []uint32 {
	for i, l := range a {
		if l == 0 {
			return a[:i:i]
		}
	}
	return a[:]
}

// array is the reverse of stack.
func array(s []uint32) (a Stack) {
	copy(a[:], s)
	return a
}
