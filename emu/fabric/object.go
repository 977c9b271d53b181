package fabric

import (
	"fmt"
	"net/netip"
	"sort"

	"github.com/vpclab/vpclab/topo"
)

// rank is the order in which kinds of objects are made; they are removed the
// other way round.
type rank int

const (
	rankNS rank = iota
	rankSysctl
	rankDevice // loopback addresses, bridges, VRFs
	rankLink
	rankMaster
	rankAddr
	rankEnd // MPLS input, impairments
	rankRule
	rankRoute
	rankLabel
)

// key names one object of a lab; the node comes first so that what a vanished
// namespace took with it is found.
type key struct {
	rank rank
	node string
	name string
}

// object is a comparable value: what is under a key.
type object any

type (
	nsObj     struct{ kind topo.NodeKind }
	sysctlObj struct{ value string }
	bridgeObj struct{ mac topo.MAC }
	vrfObj    struct{ table int }
	linkObj   struct {
		peerNode, peerIf string
		mac, peerMAC     topo.MAC
		mtu              int
	}
	masterObj struct{ master string }
	addrObj   struct{ prefix netip.Prefix }
	inputObj  struct{}
	netemObj  struct{ topo.Impairment }
	ruleObj   struct{ Rule }
	routeObj  struct{ Route }
	labelObj  struct{ MPLSRoute }
)

// objects is a State taken apart.
type objects map[key]object

// vrfMetric is the metric of a VRF's unreachable default route: the worst
// there is, as documented for VRFs, so that any other default wins.
const vrfMetric = 4278198272

// flatten takes a State apart.
func flatten(s State) objects {
	o := make(objects, 8*len(s.Nodes)+4*len(s.Links))
	for name, n := range s.Nodes {
		o.addNode(name, n)
	}
	for _, l := range s.Links {
		o[key{rankLink, l.A.Node, l.A.Ifname}] = linkObj{l.B.Node, l.B.Ifname, l.A.MAC, l.B.MAC, l.MTU}
		o.addEnd(l.A)
		o.addEnd(l.B)
	}
	return o
}

func (o objects) addNode(name string, n Node) {
	o[key{rankNS, name, ""}] = nsObj{n.Kind}
	for k, v := range n.Sysctls {
		o[key{rankSysctl, name, k}] = sysctlObj{v}
	}
	for _, p := range n.Lo {
		o[key{rankAddr, name, "lo " + p.String()}] = addrObj{p}
	}
	for _, b := range n.Bridges {
		o[key{rankDevice, name, b.Name}] = bridgeObj{b.MAC}
		if b.Addr.IsValid() {
			o[key{rankAddr, name, b.Name + " " + b.Addr.String()}] = addrObj{b.Addr}
		}
	}
	for _, v := range n.VRFs {
		o[key{rankDevice, name, v.Name}] = vrfObj{v.Table}
		o.addRoute(name, Route{Table: v.Table, Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Metric: vrfMetric, Unreachable: true})
	}
	for _, r := range n.Routes {
		o.addRoute(name, r)
	}
	for _, m := range n.MPLS {
		o[key{rankLabel, name, fmt.Sprint(m.In)}] = labelObj{m}
	}
	for _, r := range n.Rules {
		o[key{rankRule, name, fmt.Sprintf("%d table %d", r.Pref, r.Table)}] = ruleObj{r}
	}
}

// addRoute files a route under what makes it one of its kind in the kernel.
func (o objects) addRoute(node string, r Route) {
	o[key{rankRoute, node, routeName(r.Table, r.Dst, r.Metric)}] = routeObj{r}
}

func routeName(table int, dst netip.Prefix, metric int) string {
	return fmt.Sprintf("%s table %d metric %d", dst, table, metric)
}

func (o objects) addEnd(e End) {
	if e.Master != "" {
		o[key{rankMaster, e.Node, e.Ifname}] = masterObj{e.Master}
	}
	if e.Addr.IsValid() {
		o[key{rankAddr, e.Node, e.Ifname + " " + e.Addr.String()}] = addrObj{e.Addr}
	}
	if e.MPLSInput {
		o[key{rankEnd, e.Node, e.Ifname + " mpls"}] = inputObj{}
	}
	if e.Egress != (topo.Impairment{}) {
		o[key{rankEnd, e.Node, e.Ifname + " qdisc"}] = netemObj{e.Egress}
	}
}

// sorted lists keys by rank, node and name.
func (o objects) sorted() []key {
	keys := make([]key, 0, len(o))
	for k := range o {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].less(keys[j]) })
	return keys
}

func (k key) less(l key) bool {
	if k.rank != l.rank {
		return k.rank < l.rank
	}
	if k.node != l.node {
		return k.node < l.node
	}
	return k.name < l.name
}

// dev is the device that an object hangs on, or "".
func (k key) dev() string {
	switch k.rank {
	case rankLink, rankMaster:
		return k.name
	case rankAddr, rankEnd:
		for i := range k.name {
			if k.name[i] == ' ' {
				return k.name[:i]
			}
		}
	}
	return ""
}

// String is the object in words: "pe1: bridge lan".
func (k key) describe(o object) (name, detail string) {
	switch v := o.(type) {
	case nsObj:
		return k.node, string(v.kind)
	case sysctlObj:
		return k.node + ": sysctl " + k.name, v.value
	case bridgeObj:
		return k.node + ": bridge " + k.name, v.mac.String()
	case vrfObj:
		return k.node + ": vrf " + k.name, fmt.Sprintf("table %d", v.table)
	case linkObj:
		return fmt.Sprintf("link %s:%s--%s:%s", k.node, k.name, v.peerNode, v.peerIf), fmt.Sprintf("mtu %d", v.mtu)
	case masterObj:
		return k.node + ": port " + k.name, "of " + v.master
	case addrObj:
		return k.node + ": address " + k.name, ""
	case inputObj:
		return k.node + ": mpls input on " + k.dev(), ""
	case netemObj:
		return k.node + ": impairment of " + k.dev(), fmt.Sprintf("rate %d bit/s delay %v jitter %v loss %g%%",
			int64(v.Rate), v.Delay, v.Jitter, float64(v.Loss))
	case ruleObj:
		verb := "lookup"
		if v.Del {
			verb = "no lookup"
		}
		return fmt.Sprintf("%s: rule %d", k.node, v.Pref), fmt.Sprintf("%s %d", verb, v.Table)
	case routeObj:
		return k.node + ": route " + k.name, v.rtnl(nil).String()
	case labelObj:
		return k.node + ": label " + k.name, v.rtnl(nil).String()
	}
	return k.node + ": " + k.name, ""
}
