package fabric

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

type hostNS = ns.NetNS

// carryOut does the work on one thread, node by node: the kernel takes one
// lock for all of route netlink, so more threads would only wait for it. What
// costs is the number of system calls; a new node takes about ten, and all
// its objects of one stage go down in a single send.
func (f *Fabric) carryOut(ctx context.Context, w *work) error {
	stages := []func(context.Context, *work) error{f.remove, f.create, f.connect, f.finish}
	for _, stage := range stages {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := stage(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// remove takes away what should not be there, dependants first, namespaces
// last.
func (f *Fabric) remove(ctx context.Context, w *work) error {
	batches := map[string]*rtnl.Batch{}
	batch := func(node string) *rtnl.Batch {
		if batches[node] == nil {
			batches[node] = &rtnl.Batch{}
		}
		return batches[node]
	}
	for _, n := range f.nodes {
		for dev, index := range n.stale {
			batch(n.name).LinkDel(index, dev, rtnl.IgnoreMissing)
		}
		clear(n.stale)
	}
	keys := w.del.sorted()
	slices.Reverse(keys)
	var gone []string
	var inputs []key
	for _, k := range keys {
		switch {
		case k.rank == rankNS:
			gone = append(gone, k.node)
		case f.nodes[k.node] == nil:
		case w.del[k] == inputObj{}:
			inputs = append(inputs, k)
		default:
			f.nodes[k.node].undo(batch(k.node), k, w.del[k])
		}
	}
	var errs []error
	for _, k := range inputs {
		errs = append(errs, f.nodes[k.node].mplsInput(k.dev(), "0"))
	}
	errs = append(errs, f.send(batches))
	for _, name := range gone {
		if n := f.nodes[name]; n != nil {
			n.close()
			delete(f.nodes, name)
		}
		errs = append(errs, removeNS(nsPath(f.lab, name)))
	}
	return errors.Join(errs...)
}

// undo adds the removal of one object to the batch.
func (n *node) undo(b *rtnl.Batch, k key, o object) {
	const gone = rtnl.IgnoreMissing
	dev := k.dev()
	switch v := o.(type) {
	case labelObj:
		b.MPLSDel(v.In, gone)
	case routeObj:
		b.RouteDel(v.rtnl(n.index), gone)
	case ruleObj:
		n.rule(b, v.Rule, !v.Del)
	case netemObj:
		b.QdiscDel(n.root(dev), gone)
	case addrObj:
		b.AddrDel(rtnl.Address{Index: n.index[dev], Prefix: v.prefix, Dev: dev}, gone)
	case masterObj:
		b.LinkSet(rtnl.LinkChange{Index: n.index[dev], Name: dev, Master: new(int)}, gone)
	case linkObj, bridgeObj, vrfObj:
		b.LinkDel(n.index[k.name], k.name, gone)
	}
}

// rule removes a rule or adds it.
func (n *node) rule(b *rtnl.Batch, r Rule, del bool) {
	if del {
		b.RuleDel(rtnl.Rule{Pref: r.Pref, Table: r.Table}, rtnl.IgnoreMissing)
	} else {
		b.Rule(rtnl.Rule{Pref: r.Pref, Table: r.Table}, rtnl.IgnoreExist)
	}
}

// root is the outermost qdisc of a device.
func (n *node) root(dev string) rtnl.Qdisc {
	return rtnl.Qdisc{DevIndex: n.index[dev], Dev: dev, Parent: rtnl.Root, Handle: rtnl.MakeHandle(1, 0)}
}

// send carries out one batch a node and tells of every refusal with the
// node's name.
func (f *Fabric) send(batches map[string]*rtnl.Batch) error {
	names := make([]string, 0, len(batches))
	for name := range batches {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		if b := batches[name]; b.Len() > 0 {
			if err := f.nodes[name].conn.Do(b); err != nil {
				errs = append(errs, fmt.Errorf("node %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// create makes namespaces, sysctls, bridges and VRFs. A new namespace is
// filled while the thread is in it anyway.
func (f *Fabric) create(ctx context.Context, w *work) error {
	byNode := w.byNode(rankNS, rankSysctl, rankDevice)
	names := make([]string, 0, len(byNode))
	for name := range byNode {
		names = append(names, name)
	}
	slices.Sort(names)
	quiet := true // IPv6, until the first namespace says otherwise
	for i, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := f.nodes[name]
		fresh := n == nil
		if fresh {
			n = newNode(name)
			if err := createNS(f.lab, n); err != nil {
				n.close()
				return err
			}
			f.nodes[name] = n
			if i == 0 {
				quiet = ipv6Quiet()
			}
			if !quiet {
				if err := quietIPv6(); err != nil {
					return fmt.Errorf("node %s: turn IPv6 autoconfiguration off: %w", name, err)
				}
			}
		} else if hasRank(byNode[name], rankSysctl) {
			if err := n.enter(); err != nil {
				return err
			}
		}
		if err := n.fill(byNode[name], w.add, fresh, f.tag(name)); err != nil {
			return err
		}
	}
	return nil
}

// fill makes the sysctls and devices of a node whose namespace the thread is
// in (where there are sysctls).
func (n *node) fill(keys []key, add objects, fresh bool, tag string) error {
	var b rtnl.Batch
	if fresh {
		b.LinkSet(rtnl.LinkChange{Index: loIndex, Name: "lo", Up: &up})
	}
	for _, k := range keys {
		switch v := add[k].(type) {
		case sysctlObj:
			if err := writeSysctl(k.name, v.value); err != nil {
				return fmt.Errorf("node %s: sysctl %s=%s: %w", n.name, k.name, v.value, err)
			}
		case bridgeObj:
			b.Bridge(rtnl.Bridge{Link: n.device(k.name, v.mac)})
			n.tag(&b, k.name, tag)
		case vrfObj:
			b.VRF(rtnl.VRF{Link: n.device(k.name, topo.MAC{}), Table: v.table})
			n.tag(&b, k.name, tag)
		}
	}
	if b.Len() == 0 {
		return nil
	}
	if err := n.conn.Do(&b); err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	return nil
}

// connect makes the links: one batch for all that begin at a node.
func (f *Fabric) connect(ctx context.Context, w *work) error {
	batches := map[string]*rtnl.Batch{}
	for _, k := range w.add.sorted() {
		l, ok := w.add[k].(linkObj)
		if !ok {
			continue
		}
		a, b := f.nodes[k.node], f.nodes[l.peerNode]
		if a == nil || b == nil {
			return fmt.Errorf("link %s:%s--%s:%s: %w", k.node, k.name, l.peerNode, l.peerIf, ErrNoNode)
		}
		if batches[k.node] == nil {
			batches[k.node] = &rtnl.Batch{}
		}
		near, far := a.device(k.name, l.mac), b.device(l.peerIf, l.peerMAC)
		near.MTU, far.MTU = l.mtu, l.mtu
		far.Up = false // the kernel refuses to make a peer that is up
		batches[k.node].Veth(rtnl.Veth{Link: near, Peer: far, PeerNS: int(b.ns.Fd())})
	}
	return f.send(batches)
}

// finish does what hangs on devices: tags, ports, addresses, impairments,
// rules, routes and labels, in this order.
func (f *Fabric) finish(ctx context.Context, w *work) error {
	batches := map[string]*rtnl.Batch{}
	batch := func(node string) *rtnl.Batch {
		if batches[node] == nil {
			batches[node] = &rtnl.Batch{}
		}
		return batches[node]
	}
	var errs []error
	for _, k := range w.add.sorted() {
		n := f.nodes[k.node]
		switch v := w.add[k].(type) {
		case linkObj:
			n.tag(batch(k.node), k.name, f.tag(k.node))
			f.nodes[v.peerNode].tag(batch(v.peerNode), v.peerIf, f.tag(v.peerNode))
		case inputObj:
			errs = append(errs, n.mplsInput(k.dev(), "1"))
		default:
			n.do(batch(k.node), k, v)
		}
	}
	return errors.Join(append(errs, f.send(batches))...)
}

// do adds one object to the batch.
func (n *node) do(b *rtnl.Batch, k key, o object) {
	dev := k.dev()
	switch v := o.(type) {
	case masterObj:
		master := n.index[v.master]
		b.LinkSet(rtnl.LinkChange{Index: n.index[dev], Name: dev, Master: &master})
	case addrObj:
		b.Addr(rtnl.Address{Index: n.index[dev], Prefix: v.prefix, Dev: dev}, rtnl.IgnoreExist)
	case netemObj:
		b.Netem(n.root(dev), netem(v.Impairment))
	case ruleObj:
		n.rule(b, v.Rule, v.Del)
	case routeObj:
		b.RouteReplace(v.rtnl(n.index))
	case labelObj:
		b.MPLSReplace(v.rtnl(n.index))
	}
}

// up is what a *bool of a message points to.
var up = true

// device is a new device of the node, up, with an index of its own.
func (n *node) device(name string, mac topo.MAC) rtnl.Link {
	return rtnl.Link{Name: name, Index: n.alloc(name), MAC: mac, Up: true}
}

// tag writes the owner tag of a device and brings it up.
func (n *node) tag(b *rtnl.Batch, dev, tag string) {
	b.LinkSet(rtnl.LinkChange{Index: n.index[dev], Name: dev, Up: &up, Alias: &tag})
}

// mplsInput allows or forbids labelled packets on a device; the path is made
// here because a sysctl key cannot hold every device name.
func (n *node) mplsInput(dev, value string) error {
	if err := n.enter(); err != nil {
		return err
	}
	err := writeProc("/proc/sys/net/mpls/conf/"+dev+"/input", value)
	if err != nil && !(value == "0" && errors.Is(err, unix.ENOENT)) {
		return fmt.Errorf("node %s: mpls input of %s: %w", n.name, dev, err)
	}
	return nil
}

// tag is the owner tag of a device: its ifalias.
func (f *Fabric) tag(node string) string { return "vpclab:" + f.lab + ":" + node }

// byNode groups the keys to add, of these ranks, in order.
func (w *work) byNode(ranks ...rank) map[string][]key {
	out := map[string][]key{}
	for _, k := range w.add.sorted() {
		if slices.Contains(ranks, k.rank) {
			out[k.node] = append(out[k.node], k)
		}
	}
	return out
}

func hasRank(keys []key, r rank) bool {
	return slices.ContainsFunc(keys, func(k key) bool { return k.rank == r })
}

// ipv6Quiet says that new namespaces come with IPv6 off (the lab kernel is
// booted so): address autoconfiguration costs more than all else together.
func ipv6Quiet() bool {
	v, err := readProc("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	return err != nil || strings.TrimSpace(v) == "1"
}

// quietIPv6 turns IPv6 off in the namespace the thread is in.
func quietIPv6() error {
	return errors.Join(writeSysctl("net.ipv6.conf.all.disable_ipv6", "1"),
		writeSysctl("net.ipv6.conf.default.disable_ipv6", "1"))
}
