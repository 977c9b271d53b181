package fabric

import (
	"fmt"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// staleDevice carries our mark but belongs to nothing that we know: the
// remains of an Apply that was killed, or a veth whose far end is not what it
// was. It goes before anything is made.
type staleDevice struct {
	node  string
	index int
}

// observe is what the kernel really holds of the lab: what somebody removed
// or changed by hand shows, what an interrupted Apply left shows. Objects
// without a mark of ours (addresses, which have no room for one) are seen only
// where they are known, applied or wanted. Sysctls are taken as they were
// written by a settled Apply.
func (f *Fabric) observe(want objects) (have objects, stale []staleDevice, err error) {
	o, err := f.look(sortedKeys(f.nodes), want)
	if err != nil {
		return nil, nil, err
	}
	for e, l := range o.ends {
		stale = append(stale, staleDevice{e.node, l.Index})
	}
	o.believed()
	f.unseen = false
	return o.have, stale, nil
}

// look sees what the kernel holds in some nodes, and the links between them.
func (f *Fabric) look(nodes []string, want objects) (*observation, error) {
	o := &observation{f: f, have: make(objects, len(f.applied)), ends: map[end]rtnl.LinkInfo{}, needs: map[string]needs{}, known: want}
	o.count(want)
	o.count(f.applied)
	err := onThread(func() error {
		for _, name := range nodes {
			if err := o.node(f.nodes[name]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("lab %s: see what the kernel holds: %w", f.lab, err)
	}
	o.links(f.applied)
	o.links(want)
	return o, nil
}

// needs says which tables of a node are worth reading.
type needs struct{ addrs, qdiscs, rules, routes, labels bool }

// observation is what has been seen so far.
type observation struct {
	f     *Fabric
	known objects
	have  objects
	needs map[string]needs
	ends  map[end]rtnl.LinkInfo // veth ends of ours that are not yet part of a link
}

func (o *observation) count(objs objects) {
	for k := range objs {
		n := o.needs[k.node]
		switch k.rank {
		case rankAddr:
			n.addrs = true
		case rankQdisc, rankClass, rankBlock:
			n.qdiscs = true
		case rankRule:
			n.rules = true
		case rankRoute:
			n.routes = true
		case rankLabel:
			n.labels = true
		default:
			continue
		}
		o.needs[k.node] = n
	}
}

// node reads one node on a thread of onThread's. The socket is in the
// namespace already.
func (o *observation) node(n *node) error {
	k := key{rankNS, n.name, "", ""}
	if inodeOf(nsPath(o.f.lab, n.name)) == n.inode {
		o.have[k] = o.either(k)
	} else {
		o.have[k] = unnamed{}
	}
	links, err := n.conn.Links()
	if err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	names := o.devices(n, links)
	need := o.needs[n.name]
	if o.f.suspect {
		need = needs{true, true, true, true, true}
	}
	for _, read := range []struct {
		wanted bool
		fn     func(*node, map[int]string) error
	}{{need.addrs, o.addrs}, {need.qdiscs, o.qdiscs}, {need.rules, o.rules}, {need.routes, o.routes}, {need.labels, o.labels}} {
		if !read.wanted {
			continue
		}
		if err := read.fn(n, names); err != nil {
			return fmt.Errorf("node %s: %w", n.name, err)
		}
	}
	if o.f.suspect {
		return o.values(n)
	}
	return nil
}

// values reads the sysctls that are known of a node, and the MPLS input of its
// devices: three system calls each, so only when nobody remembers what they
// are.
func (o *observation) values(n *node) error {
	if err := n.enter(); err != nil {
		return err
	}
	for _, known := range []objects{o.known, o.f.applied} {
		for k := range known {
			if k.node != n.name {
				continue
			}
			switch k.rank {
			case rankSysctl:
				if v, err := readProc(sysctlPath(k.name)); err == nil {
					o.have[k] = sysctlObj{v}
				}
			case rankInput:
				if v, err := readProc(inputPath(k.dev)); err == nil && v == "1" {
					o.have[k] = inputObj{}
				}
			}
		}
	}
	return nil
}

// unnamed is the value of a namespace whose name in /run/netns was lost.
type unnamed struct{}

// either is the object as wanted, or as applied, or nil.
func (o *observation) either(k key) object {
	if v, ok := o.known[k]; ok {
		return v
	}
	if v, ok := o.f.applied[k]; ok {
		return v
	}
	return nsObj{}
}

// devices files the devices that carry our mark and learns all indexes.
func (o *observation) devices(n *node, links []rtnl.LinkInfo) (names map[int]string) {
	names = make(map[int]string, len(links))
	clear(n.index)
	for _, l := range links {
		names[l.Index] = l.Name
		n.index[l.Name] = l.Index
		if l.Index < rtnl.FirstSpeakerIndex {
			n.next = max(n.next, l.Index+1)
		}
	}
	for _, l := range links {
		if l.Group != ownerGroup {
			continue
		}
		switch l.Kind {
		case "bridge":
			o.have[key{rankDevice, n.name, l.Name, ""}] = bridgeObj{l.MAC, l.Ageing, !l.Up}
		case "vrf":
			o.have[key{rankDevice, n.name, l.Name, ""}] = vrfObj{l.Table, !l.Up}
		case "veth":
			o.ends[end{n.name, l.Name}] = l
		}
		if l.Master != 0 {
			k := key{rankMaster, n.name, l.Name, ""}
			wanted, _ := o.known[k].(masterObj)
			o.have[k] = masterObj{names[l.Master], wanted.closed}
		}
		if l.Deaf {
			o.have[key{rankDeaf, n.name, l.Name, ""}] = deafObj{}
		}
	}
	return names
}

// links joins ends that belong together by what is known of them.
func (o *observation) links(known objects) {
	for k, v := range known {
		l, ok := v.(linkObj)
		if !ok {
			continue
		}
		a, b := end{k.node, k.dev}, end{l.peerNode, l.peerIf}
		x, okA := o.ends[a]
		y, okB := o.ends[b]
		if !okA || !okB || x.Peer != y.Index || y.Peer != x.Index {
			continue
		}
		seen := linkObj{l.peerNode, l.peerIf, x.MAC, y.MAC, x.MTU, noEnd, l.seat}
		if !x.Up {
			seen.down |= endA
		}
		if !y.Up && (l.seat == topo.NoSeat || !x.Up) {
			seen.down |= endB
		}
		if x.MTU != y.MTU {
			seen.mtu = 0 // not as anybody wants it
		}
		o.have[k] = seen
		delete(o.ends, a)
		delete(o.ends, b)
		if seen.down != noEnd {
			o.unline(a)
			o.unline(b)
		}
	}
}

// unline takes the line of an end of a link of which an end is down for none:
// see flatten. What is made in its place is made anew.
func (o *observation) unline(e end) {
	k := key{rankQdisc, e.node, e.dev, ""}
	if q, ok := o.have[k].(qdiscObj); ok {
		q.rate = 0
		o.have[k] = q
	}
	for k := range o.have {
		if k.rank == rankClass && k.node == e.node && k.dev == e.dev {
			delete(o.have, k)
			delete(o.f.nodes[e.node].classes, k)
		}
	}
}

func (o *observation) addrs(n *node, names map[int]string) error {
	addrs, err := n.conn.Addrs()
	for _, a := range addrs {
		k := addrKey(n.name, names[a.Index], a.Prefix)
		if _, ok := o.known[k]; !ok {
			if _, ok = o.f.applied[k]; !ok {
				continue // somebody else's
			}
		}
		o.have[k] = addrObj{a.Prefix}
	}
	return err
}

func (o *observation) qdiscs(n *node, names map[int]string) error {
	qdiscs, err := n.conn.Qdiscs()
	if err != nil {
		return err
	}
	seen, err := readLines(n.conn, qdiscs)
	clear(n.classes)
	for index, l := range seen {
		o.have[key{rankQdisc, n.name, names[index], ""}] = qdiscObj{l.egress}
		o.division(n, names[index], l)
	}
	for _, q := range qdiscs {
		k := key{rankBlock, n.name, names[q.Index], ""}
		// Hooks without a block are somebody else's, unless they are in the
		// place of ours.
		if q.Kind == "clsact" && (q.Block != 0 || o.known[k] != nil) {
			o.have[k] = blockObj{q.Block}
		}
	}
	return err
}

func (o *observation) rules(n *node, _ map[int]string) error {
	rules, err := n.conn.Rules()
	if err != nil {
		return err
	}
	there := map[Rule]bool{}
	for _, r := range rules {
		v := Rule{Pref: r.Pref, Table: r.Table, From: r.From, To: r.To, Iif: r.Iif}
		there[v] = true
		if r.Protocol == rtnl.ProtocolFabric {
			o.have[ruleKey(n.name, v)] = ruleObj{v}
		}
	}
	for _, known := range []objects{o.f.applied, o.known} {
		for k, v := range known {
			if r, ok := v.(ruleObj); ok && k.node == n.name && r.Del {
				r.Del = false
				if !there[r.Rule] {
					o.have[k] = v
				}
			}
		}
	}
	return nil
}

func (o *observation) routes(n *node, names map[int]string) error {
	routes, err := n.conn.Routes(rtnl.ProtocolFabric)
	for _, r := range routes {
		o.have.addRoute(n.name, Route{Table: r.Table, Dst: r.Dst, Via: r.Via, Dev: names[r.DevIndex], Src: r.Src,
			Labels: array(r.Labels), Metric: r.Metric, Unreachable: r.Unreachable, Local: r.Local})
	}
	return err
}

func (o *observation) labels(n *node, names map[int]string) error {
	labels, err := n.conn.MPLSRoutes(rtnl.ProtocolFabric)
	for _, r := range labels {
		o.have[labelKey(n.name, r.In)] = labelObj{MPLSRoute{In: r.In, Out: array(r.Out), Via: r.Via, Dev: names[r.DevIndex], NoTTLPropagate: r.NoTTLPropagate}}
	}
	return err
}

// believed adds what is not read back, where its carrier was seen: sysctls
// while the namespace lives, MPLS input while the device does. What hangs on a
// device that is to be deleted or made anew is dropped.
func (o *observation) believed() {
	devices := map[end]bool{}
	for k, v := range o.have {
		switch k.rank {
		case rankLink:
			l := v.(linkObj)
			devices[end{k.node, k.dev}], devices[end{l.peerNode, l.peerIf}] = true, true
		case rankDevice:
			devices[end{k.node, k.dev}] = true
		}
	}
	if !o.f.suspect {
		for k, v := range o.f.applied {
			if k.rank == rankSysctl && o.have[key{rankNS, k.node, "", ""}] != nil && (!k.late() || devices[end{k.node, k.sysctlDevice()}]) ||
				k.rank == rankInput && devices[end{k.node, k.dev}] {
				o.have[k] = v
			}
		}
	}
	for k := range o.have {
		if k.rank > rankLink && k.dev != "" && k.dev != "lo" && !devices[end{k.node, k.dev}] {
			delete(o.have, k)
		}
	}
}
