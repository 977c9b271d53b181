package fabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// ownerGroup is the link group of our devices (`ip link show group 7762028`):
// it is the one tag that a device can be born with. The ifalias, for people,
// follows in the next message.
const ownerGroup = rtnl.GroupFabric

// carryOut does the work on one thread, node by node: the kernel takes one
// lock for all of route netlink, so more threads would only wait for it. What
// costs is the number of system calls: a new node takes about ten, and all
// that is in it goes down in a single send.
func (f *Fabric) carryOut(ctx context.Context, w *work, stale []staleDevice) error {
	if err := f.remove(ctx, w, stale); err != nil {
		return err
	}
	if err := f.createNodes(ctx, w); err != nil {
		return err
	}
	return f.fillNodes(ctx, w)
}

// remove takes away what should not be there, dependants first, namespaces
// last.
func (f *Fabric) remove(ctx context.Context, w *work, stale []staleDevice) error {
	plan := map[string]*removal{}
	at := func(node string) *removal {
		if plan[node] == nil {
			plan[node] = &removal{node: f.nodes[node]}
		}
		return plan[node]
	}
	for _, s := range stale {
		at(s.node).devices = append(at(s.node).devices, s.index)
	}
	keys := w.del.keys()
	slices.Reverse(keys)
	var names []string
	for _, k := range keys {
		node, o := k.node, w.del[k]
		if l, ok := o.(linkObj); ok && w.del[key{rankNS, node, "", ""}] != nil {
			node, k.dev = l.peerNode, l.peerIf
		}
		switch {
		case k.rank == rankNS:
			names = append(names, node)
		case f.nodes[node] != nil:
			at(node).add(k, o)
		}
	}
	var errs []error
	for _, node := range sortedKeys(plan) {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, plan[node].do())
	}
	for _, name := range names {
		errs = append(errs, f.removeNode(name))
	}
	return errors.Join(errs...)
}

// removal is what leaves one node that stays.
type removal struct {
	node    *node
	batch   rtnl.Batch
	devices []int
	bridges map[int]bool // those of devices that are bridges
	inputs  []string
}

func (r *removal) add(k key, o object) {
	const gone = rtnl.IgnoreMissing
	n, b := r.node, &r.batch
	index := n.index[k.dev]
	switch v := o.(type) {
	case inputObj:
		r.inputs = append(r.inputs, k.dev)
	case labelObj:
		b.MPLSDel(v.In, gone)
	case routeObj:
		b.RouteDel(n.route(v.Route), gone)
	case ruleObj:
		n.rule(b, v.Rule, !v.Del)
	case qdiscObj:
		b.QdiscDel(rootQdisc(k.dev, index), gone)
	case strayObj:
		tree{k.dev, index}.clear(b, v.stray)
	case classObj:
		tree{k.dev, index}.release(b, v.reserved, n.class(k))
		delete(n.classes, k)
	case sharedObj:
		tree{k.dev, index}.unite(b)
	case blockObj:
		b.ClsactDel(index, k.dev, gone)
	case deafObj:
		b.Undeafen(index, k.dev, gone)
	case addrObj:
		b.AddrDel(rtnl.Address{Index: index, Prefix: v.prefix, Dev: k.dev}, gone)
	case masterObj:
		b.LinkSet(rtnl.LinkChange{Index: index, Name: k.dev, Master: new(int)}, gone)
	case bridgeObj:
		if r.bridges == nil {
			r.bridges = map[int]bool{}
		}
		r.bridges[index] = true
		r.devices = append(r.devices, index)
	case linkObj, vrfObj:
		r.devices = append(r.devices, index)
	}
}

// do carries the removal out. Devices go as a group: each deletion by itself
// waits for the kernel's RCU (18.7 ms), a group waits once.
func (r *removal) do() error {
	if err := r.pseudowires(); err != nil {
		return err
	}
	b := &r.batch
	group := uint32(rtnl.GroupDoomed)
	switch len(r.devices) {
	case 0:
	case 1:
		b.LinkDel(r.devices[0], "", rtnl.IgnoreMissing)
	default:
		for _, index := range r.devices {
			b.LinkSet(rtnl.LinkChange{Index: index, Group: &group}, rtnl.IgnoreMissing)
		}
		b.GroupDel(group, rtnl.IgnoreMissing)
	}
	errs := []error{r.node.send(b)}
	if len(r.inputs) > 0 {
		errs = append(errs, r.node.enter())
		for _, dev := range r.inputs {
			errs = append(errs, r.node.mplsInput(dev, "0"))
		}
	}
	return errors.Join(errs...)
}

// pseudowires takes along those that speakers made ports of bridges that go: a
// bridge only lets go of its ports, and a speaker may have died.
func (r *removal) pseudowires() error {
	if len(r.bridges) == 0 {
		return nil
	}
	links, err := r.node.conn.Links()
	if err != nil {
		return fmt.Errorf("node %s: %w", r.node.name, err)
	}
	for _, l := range links {
		if l.Group == rtnl.GroupSpeaker && r.bridges[l.Master] {
			r.devices = append(r.devices, l.Index)
		}
	}
	return nil
}

// removeNode ends a namespace and the processes in it.
func (f *Fabric) removeNode(name string) error {
	n := f.nodes[name]
	if n == nil {
		return nil
	}
	err := killInside(map[uint64]bool{n.inode: true})
	f.setNode(name, nil)
	n.close()
	return errors.Join(err, unmountNS(nsPath(f.lab, name)))
}

// createNodes makes the new namespaces: all of them before any link, so that
// both ends of a link are made in place. Sysctls are written while the thread
// is there anyway, before there is a device that they could matter for.
func (f *Fabric) createNodes(ctx context.Context, w *work) error {
	sysctls := map[string][]key{}
	var fresh []key
	for _, k := range w.added() {
		switch k.rank {
		case rankNS:
			fresh = append(fresh, k)
		case rankSysctl:
			sysctls[k.node] = append(sysctls[k.node], k)
		}
	}
	checked, quiet := false, true
	for _, k := range fresh {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n := f.nodes[k.node]; n != nil { // only its name was lost
			if err := n.mount(nsPath(f.lab, k.node)); err != nil {
				return err
			}
			continue
		}
		n := newNode(k.node)
		if o, ok := w.add[k].(nsObj); ok {
			n.kind = o.kind
		}
		if err := createNS(f.lab, n); err != nil {
			return err
		}
		f.setNode(k.node, n)
		if !checked {
			checked, quiet = true, ipv6Quiet()
		}
		if !quiet {
			if err := quietIPv6(); err != nil {
				return fmt.Errorf("node %s: turn IPv6 off: %w", n.name, err)
			}
		}
		if err := n.sysctls(sysctls[k.node], w.add, false); err != nil {
			return err
		}
		delete(sysctls, k.node)
	}
	for _, name := range sortedKeys(sysctls) {
		n := f.nodes[name]
		if n == nil {
			return fmt.Errorf("sysctl of node %s: %w", name, ErrNoNode)
		}
		if !slices.ContainsFunc(sysctls[name], func(k key) bool { return !k.late() }) {
			continue
		}
		if err := n.enter(); err != nil {
			return err
		}
		if err := n.sysctls(sysctls[name], w.add, false); err != nil {
			return err
		}
	}
	return nil
}

// late says that a sysctl belongs to a single device, which has to be there
// first: net.ipv4.conf.eth1.forwarding.
func (k key) late() bool {
	part := strings.Split(k.name, ".")
	if len(part) < 5 || part[2] != "conf" && part[2] != "neigh" {
		return false
	}
	return part[3] != "all" && part[3] != "default" && part[3] != "lo"
}

// sysctls writes those of keys that are late, or not, in the namespace that
// the thread is in.
func (n *node) sysctls(keys []key, add objects, late bool) error {
	// Writing ip_forward resets other values to their defaults (as
	// ip-sysctl.rst says), so it comes first.
	for _, first := range []bool{true, false} {
		for _, k := range keys {
			if k.late() != late || (k.name == "net.ipv4.ip_forward") != first {
				continue
			}
			if err := writeSysctl(k.name, add[k].(sysctlObj).value); err != nil {
				return fmt.Errorf("node %s: set sysctl %s: %w", n.name, k.name, err)
			}
		}
	}
	return nil
}

// filling is all that is to be made in one node.
type filling struct {
	node  *node
	fresh bool
	keys  []key  // in order
	ends  []peer // of new or changed links
}

// peer is one end of a link of the work, seen from a node.
type peer struct {
	dev    string
	mac    topo.MAC
	far    *node
	farDev string
	farMAC topo.MAC
	mtu    int
	down   bool
	leave  bool     // up or down as it is
	old    *linkObj // as it is now; nil: to be made
	oldMAC topo.MAC
	link   key
}

// fillNodes sends each node's batch. The node of a link that comes first in
// order makes both ends, so that in any batch all links of its node exist.
func (f *Fabric) fillNodes(ctx context.Context, w *work) error {
	fills, err := f.fillings(w)
	if err != nil {
		return err
	}
	made := map[key]bool{}
	var b rtnl.Batch
	var errs []error
	for _, name := range f.coreFirst(fills) {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		b.Reset()
		fill := fills[name]
		fill.encode(&b, w, f.tag(name), made)
		errs = append(errs, fill.send(&b), fill.lateSysctls(w))
	}
	return errors.Join(errs...)
}

// coreFirst orders nodes from the core outwards, so that whoever speaks first
// finds the other side answering: a CE that asked for the address of its PE
// before the PE has it would ask again only after a second (ARP).
func (f *Fabric) coreFirst(fills map[string]*filling) []string {
	names := sortedKeys(fills)
	slices.SortStableFunc(names, func(a, b string) int {
		return distance(fills[a].node.kind) - distance(fills[b].node.kind)
	})
	return names
}

// distance is how far from the core nodes of a kind are.
func distance(kind topo.NodeKind) int {
	switch kind {
	case topo.KindP, topo.KindPE, topo.KindRR:
		return 0
	case topo.KindCE:
		return 1
	case topo.KindHost:
		return 2
	}
	return 3
}

func (f *Fabric) fillings(w *work) (map[string]*filling, error) {
	fills := map[string]*filling{}
	at := func(node string) (*filling, error) {
		if fill := fills[node]; fill != nil {
			return fill, nil
		}
		n := f.nodes[node]
		if n == nil {
			return nil, fmt.Errorf("node %s: %w", node, ErrNoNode)
		}
		fills[node] = &filling{node: n}
		return fills[node], nil
	}
	for _, k := range w.added() {
		fill, err := at(k.node)
		if err != nil {
			return nil, err
		}
		switch v := w.add[k].(type) {
		case nsObj:
			fill.fresh = true
		case linkObj:
			far, err := at(v.peerNode)
			if err != nil {
				return nil, fmt.Errorf("link %s:%s--%s:%s: %w", k.node, k.dev, v.peerNode, v.peerIf, err)
			}
			p := peer{dev: k.dev, mac: v.mac, far: far.node, farDev: v.peerIf, farMAC: v.peerMAC, mtu: v.mtu, down: v.down&endA != 0, link: k}
			q := peer{dev: v.peerIf, mac: v.peerMAC, far: fill.node, farDev: k.dev, farMAC: v.mac, mtu: v.mtu, down: v.down&endB != 0, link: k}
			if old, ok := w.old[k].(linkObj); ok {
				p.old, p.oldMAC, q.old, q.oldMAC = &old, old.mac, &old, old.peerMAC
				q.leave = v.seat != topo.NoSeat
			} else {
				q.down = q.down || v.seat == topo.SeatDark
			}
			fill.ends = append(fill.ends, p)
			far.ends = append(far.ends, q)
		default:
			fill.keys = append(fill.keys, k)
		}
	}
	return fills, nil
}

// up and down are what a *bool of a message points to.
var up, down = true, false

// encode writes the node's batch: devices, then links, ports, addresses,
// impairments, rules, routes, labels.
func (fill *filling) encode(b *rtnl.Batch, w *work, tag string, made map[key]bool) {
	n := fill.node
	if fill.fresh {
		b.LinkSet(rtnl.LinkChange{Index: loIndex, Name: "lo", Up: &up, Alias: &tag})
	}
	masters := map[string]string{} // device -> its new master
	for _, k := range fill.keys {
		switch v := w.add[k].(type) {
		case bridgeObj, vrfObj:
			n.device(b, k.dev, v, w.old[k] != nil, tag)
		case masterObj:
			masters[k.dev] = v.master
		}
	}
	for _, p := range fill.ends {
		if p.old == nil && !made[p.link] {
			made[p.link] = true
			near, far := n.newEnd(p.dev, p.mac, p.mtu), p.far.newEnd(p.farDev, p.farMAC, p.mtu)
			// Where both ends have the same number, though in two namespaces,
			// the kernel takes them for no pair and lets up to a second pass
			// until it tells that one of them has lost its carrier.
			if near.Index == far.Index {
				far.Index = p.far.alloc(p.farDev)
			}
			b.Veth(rtnl.Veth{Link: near, Peer: far, PeerNS: int(p.far.ns)})
		}
	}
	for _, p := range fill.ends {
		c := rtnl.LinkChange{Index: n.index[p.dev], Name: p.dev, Up: &up}
		switch {
		case p.leave:
			c.Up = nil
		case p.down:
			c.Up = &down
		}
		if p.old == nil {
			c.Alias = &tag
		} else {
			if p.old.mtu != p.mtu {
				c.MTU = p.mtu
			}
			if p.oldMAC != p.mac {
				c.MAC = (*[6]byte)(&p.mac)
			}
		}
		if m, ok := masters[p.dev]; ok {
			index := n.index[m]
			c.Master = &index
			delete(masters, p.dev)
		}
		b.LinkSet(c)
	}
	for _, dev := range sortedKeys(masters) {
		index := n.index[masters[dev]]
		b.LinkSet(rtnl.LinkChange{Index: n.index[dev], Name: dev, Master: &index})
	}
	for _, k := range fill.keys {
		n.set(b, k, w.add[k], w.old[k])
	}
}

func (n *node) newEnd(dev string, mac topo.MAC, mtu int) rtnl.Link {
	return rtnl.Link{Name: dev, Index: n.alloc(dev), MAC: mac, MTU: mtu, Group: ownerGroup}
}

// device makes or mends a bridge or VRF.
func (n *node) device(b *rtnl.Batch, dev string, o object, exists bool, tag string) {
	c := rtnl.LinkChange{Name: dev, Up: &up, Alias: &tag}
	switch v := o.(type) {
	case bridgeObj:
		if exists {
			c.MAC = (*[6]byte)(&v.mac)
			b.BridgeSet(rtnl.BridgeChange{Index: n.index[dev], Name: dev, Ageing: v.ageing})
			break
		}
		b.Bridge(rtnl.Bridge{Link: n.newEnd(dev, v.mac, 0), Ageing: v.ageing})
	case vrfObj:
		if !exists {
			b.VRF(rtnl.VRF{Link: n.newEnd(dev, topo.MAC{}, 0), Table: v.table})
		}
	}
	c.Index = n.index[dev]
	b.LinkSet(c)
}

// set adds one object that hangs on what is there by now.
func (n *node) set(b *rtnl.Batch, k key, o, old object) {
	index := n.index[k.dev]
	switch v := o.(type) {
	case masterObj:
		if was, _ := old.(masterObj); v.closed && was.master != v.master {
			b.PortSet(rtnl.PortChange{Index: index, Name: k.dev, Closed: &v.closed})
		}
	case addrObj:
		b.Addr(rtnl.Address{Index: index, Prefix: v.prefix, Dev: k.dev}, rtnl.IgnoreExist)
	case qdiscObj:
		was, _ := old.(qdiscObj)
		shape(b, k.dev, index, was.egress, v.egress)
	case sharedObj:
		tree{k.dev, index}.divide(b, v.shared)
	case classObj:
		tree{k.dev, index}.reserve(b, v.reserved, n.class(k))
	case blockObj:
		b.Clsact(index, k.dev, v.block)
	case deafObj:
		b.Deafen(index, k.dev)
	case ruleObj:
		n.rule(b, v.Rule, v.Del)
	case routeObj:
		b.RouteReplace(n.route(v.Route))
	case labelObj:
		b.MPLSReplace(n.label(v.MPLSRoute))
	}
}

func (n *node) rule(b *rtnl.Batch, r Rule, del bool) {
	rule := rtnl.Rule{Pref: r.Pref, Table: r.Table, From: r.From, To: r.To, Iif: r.Iif}
	if del {
		b.RuleDel(rule, rtnl.IgnoreMissing)
	} else {
		b.Rule(rule, rtnl.IgnoreExist)
	}
}

func (n *node) route(r Route) rtnl.Route {
	return rtnl.Route{Table: r.Table, Dst: r.Dst, Via: r.Via, DevIndex: n.index[r.Dev], Dev: r.Dev, Src: r.Src,
		Labels: stack(r.Labels), Metric: r.Metric, Unreachable: r.Unreachable, Local: r.Local}
}

func (n *node) label(m MPLSRoute) rtnl.MPLSRoute {
	return rtnl.MPLSRoute{In: m.In, Out: stack(m.Out), Via: m.Via, DevIndex: n.index[m.Dev], Dev: m.Dev, NoTTLPropagate: m.NoTTLPropagate}
}

// lateSysctls writes what belongs to single devices.
func (fill *filling) lateSysctls(w *work) error {
	n := fill.node
	var sysctls []key
	var errs []error
	inside := false
	enter := func() {
		if !inside {
			inside = true
			errs = append(errs, n.enter())
		}
	}
	for _, k := range fill.keys {
		switch {
		case k.rank == rankInput:
			enter()
			errs = append(errs, n.mplsInput(k.dev, "1"))
		case k.rank == rankSysctl && k.late():
			sysctls = append(sysctls, k)
		}
	}
	if len(sysctls) > 0 {
		enter()
		errs = append(errs, n.sysctls(sysctls, w.add, true))
	}
	return errors.Join(errs...)
}

// inputPath is where a device's MPLS input is set: a sysctl key could not hold
// every device name.
func inputPath(dev string) string { return "/proc/sys/net/mpls/conf/" + dev + "/input" }

// mplsInput allows or forbids labelled packets on a device of the namespace
// that the thread is in.
func (n *node) mplsInput(dev, value string) error {
	err := writeProc(inputPath(dev), value)
	if err != nil && !(value == "0" && errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("node %s: mpls input of %s: %w", n.name, dev, err)
	}
	return nil
}

// send carries out a filling's batch. What fills a new node waits for nobody;
// what changes an old one may have to, for the kernel's RCU.
func (fill *filling) send(b *rtnl.Batch) error {
	if fill.fresh {
		return fill.node.done(b, fill.node.conn.DoDirect)
	}
	return fill.node.send(b)
}

// send carries out a batch; refusals come with the node's name.
func (n *node) send(b *rtnl.Batch) error { return n.done(b, n.conn.Do) }

func (n *node) done(b *rtnl.Batch, do func(*rtnl.Batch) error) error {
	if b.Len() == 0 {
		return nil
	}
	if err := do(b); err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	return nil
}

// tag is the owner tag of a device: its ifalias.
func (f *Fabric) tag(node string) string { return "vpclab:" + f.lab + ":" + node }

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// sysctlDevice is the device that a late sysctl belongs to.
func (k key) sysctlDevice() string { return strings.Split(k.name, ".")[3] }
