package bgp

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// A pseudowire in a stock kernel (RFC 4448, raw mode, no control word):
//
//	bridge vsi-x ── pw20103 ══ pw20103x
//	                 │ egress    ▲
//	  push label 20103, push     │ pop label 20103
//	  a throw-away Ethernet      │
//	  header, hand to lo         │
//	                 ▼           │
//	  MPLS: 20103 as 10203/20101 └── block 1: frames with label 20103, at the
//	        via the core             ingress of every core interface
//
// pw20103 is a port of the bridge, and isolated: a frame from one pseudowire
// leaves by no other (split horizon), as each PE has one to each other PE.
// Handing frames to the kernel's own label switching, by way of lo, lets it
// find the next hop's MAC and its state as for any LSP. Reserved traffic has
// filters before the one for all frames, and a label and a way of its own.

// Priorities of filters: at the port, the more exactly a flow says whose
// frames it means the earlier it is asked.
const (
	prioFlow  = 10 // source and destination; the next two: one of them
	prioAll   = 20
	prioLabel = 10 // in the shared block
)

// lo is the index of the loopback device in every namespace.
const lo = 1

// portIndex is the index of a pseudowire's port; its far end has the next one.
// Labels are below 1<<20, so this fits the 31 bits that an index has.
func portIndex(label uint32) int { return rtnl.FirstSpeakerIndex + 2*int(label) }

// portMAC is nobody's: no frame has it, as the bridge has a MAC of its own.
func portMAC(label uint32, end byte) [6]byte {
	return [6]byte{0x02, 0xfd, byte(label >> 16), byte(label >> 8), byte(label), end}
}

// wireBatch is a batch that knows which operation each message is of.
type wireBatch struct {
	rtnl.Batch
	op []int // by message
}

// of marks the messages added since the last call as operation i's, and keeps
// them together.
func (b *wireBatch) of(i int) {
	for len(b.op) < b.Len() {
		b.op = append(b.op, i)
	}
	b.Cut()
}

func (f *kernelFIB) wire(ops []wireOp) []error {
	errs := make([]error, len(ops))
	var b wireBatch
	doomed := false
	for i, op := range ops {
		if doomed && op.do > dropPW {
			b.GroupDel(rtnl.GroupDoomed, rtnl.IgnoreMissing)
			b.of(i)
			doomed = false
		}
		errs[i] = f.add(&b, op)
		doomed = doomed || op.do == dropPW
		b.of(i)
	}
	if doomed {
		b.GroupDel(rtnl.GroupDoomed, rtnl.IgnoreMissing)
		b.of(len(ops) - 1)
	}
	f.run(&b, ops, errs)
	f.undo(ops, errs)
	f.risen(ops, errs)
	return errs
}

// risen posts which of the ports added forward already. As a rule all do: a
// new interface counts as operational until the kernel has time to look at its
// carrier, and at the end of a port's messages it has one. Where it had the
// time in between, the port waits for another look, and that may take a second
// where there are many: the kernel looks at a hundred interfaces and then
// rests. Their news come by watchLinks.
func (f *kernelFIB) risen(ops []wireOp, errs []error) {
	seen := map[string]bool{}
	for i, op := range ops {
		if op.do != addPW || errs[i] != nil || seen[op.pw.VSI] {
			continue
		}
		seen[op.pw.VSI] = true
		bridge, err := f.indexOf(op.pw.VSI)
		if err != nil {
			continue // gone again; that is posted
		}
		ports, err := f.conn.Ports(bridge)
		if err != nil {
			f.post(logLine{"error", err.Error()})
		}
		for _, l := range ports {
			if label, ok := labelOf(l); ok && l.Port == rtnl.PortForwarding {
				f.post(portUp{label})
			}
		}
	}
}

// run sends b and files each refusal with its operation, the first one of
// each. When something is removed the kernel has EINVAL for a filter whose hook
// or block is not there: then it is gone already.
func (f *kernelFIB) run(b *wireBatch, ops []wireOp, errs []error) {
	refused, err := f.conn.Run(&b.Batch)
	if err != nil {
		for i := range errs {
			errs[i] = errors.Join(errs[i], err)
		}
		return
	}
	for _, e := range refused {
		i := b.op[e.Index]
		gone := e.Errno == unix.EINVAL && ops[i].do <= dropPW
		if errs[i] == nil && !gone {
			errs[i] = e
		}
	}
}

// undo removes what is there of additions that failed in part.
func (f *kernelFIB) undo(ops []wireOp, errs []error) {
	var b wireBatch
	failed := map[uint32]bool{}
	for i, op := range ops {
		if op.do == addPW && errs[i] != nil {
			failed[op.pw.In] = true
			b.dropPW(op.pw)
		}
	}
	for i, op := range ops {
		if op.do != setFlow {
			continue
		}
		if failed[op.flow.Port] {
			errs[i] = fmt.Errorf("its pseudowire pw%d was refused", op.flow.Port)
		}
		if errs[i] != nil {
			b.dropFlow(op.flow)
		}
	}
	if b.Len() > 0 {
		b.GroupDel(rtnl.GroupDoomed, rtnl.IgnoreMissing)
		_, _ = f.conn.Run(&b.Batch) // what was refused before is refused again
	}
}

// add puts the messages of op into b, or none and says why.
func (f *kernelFIB) add(b *wireBatch, op wireOp) error {
	switch op.do {
	case dropFlow:
		b.dropFlow(op.flow)
	case dropPW:
		b.dropPW(op.pw)
	case addPW:
		bridge, err := f.indexOf(op.pw.VSI)
		if err != nil {
			return fmt.Errorf("add %s: bridge: %w", op.pw.port(), err)
		}
		core, err := f.indexOf(op.pw.Dev)
		if err != nil {
			return fmt.Errorf("add %s: way to %s: %w", op.pw.port(), op.pw.Egress, err)
		}
		b.addPW(op.pw, bridge, core)
	case routePW:
		core, err := f.indexOf(op.pw.Dev)
		if err != nil {
			return fmt.Errorf("route %s: way to %s: %w", op.pw.port(), op.pw.Egress, err)
		}
		b.Filter(fromLabel(op.pw.In, op.pw.In))
		b.wayPW(op.pw, core)
	case setFlow:
		core, err := f.indexOf(op.flow.Dev)
		if err != nil {
			return fmt.Errorf("set flow %s: %w", op.flow.Name, err)
		}
		b.setFlow(op.flow, core)
	}
	return nil
}

// addPW goes up last: from then on the port forwards, isolated as it is.
func (b *wireBatch) addPW(w pseudowire, bridge, core int) {
	up, isolated := true, true
	port, far := portIndex(w.In), portIndex(w.In)+1
	b.Veth(rtnl.Veth{
		Link: rtnl.Link{Name: w.port(), Index: port, MTU: w.MTU, MAC: portMAC(w.In, 1), Group: rtnl.GroupSpeaker},
		Peer: rtnl.Link{Name: w.port() + "x", Index: far, MTU: w.MTU, MAC: portMAC(w.In, 2), Group: rtnl.GroupSpeaker},
	})
	b.LinkSet(rtnl.LinkChange{Index: far, Up: &up})
	b.LinkSet(rtnl.LinkChange{Index: port, Master: &bridge})
	b.PortSet(rtnl.PortChange{Index: port, Isolated: &isolated})
	b.Clsact(port, w.port(), 0)
	b.Filter(rtnl.Filter{DevIndex: port, Dev: w.port(), Parent: rtnl.Egress, Prio: prioAll, Handle: 1, Actions: toLabel(w.In)})
	b.Filter(fromLabel(w.In, w.In))
	b.wayPW(w, core)
	b.LinkSet(rtnl.LinkChange{Index: port, Up: &up})
}

// toLabel gives a frame to the kernel's label switching as if it had come in
// with label.
func toLabel(label uint32) []rtnl.Action {
	return []rtnl.Action{
		rtnl.PushLabel{Label: label},
		rtnl.PushEth{Dst: portMAC(label, 2), Src: portMAC(label, 1)}, // what an MPLS packet comes in with; read by nobody
		rtnl.ToHost{},
		rtnl.Redirect{DevIndex: lo, Ingress: true},
	}
}

// fromLabel takes frames that come in with label to the port of the
// pseudowire pw. The label is the only one left: the LSP's was popped by the
// router before us.
func fromLabel(label, pw uint32) rtnl.Filter {
	return rtnl.Filter{Block: mpls.PseudowireBlock, Prio: prioLabel, Handle: label, Protocol: rtnl.EtherMPLS,
		Flower: &rtnl.Flower{Label: label, Bottom: true},
		Actions: []rtnl.Action{rtnl.PopEth{}, rtnl.PopLabel{Protocol: rtnl.EtherTEB},
			rtnl.Redirect{DevIndex: portIndex(pw) + 1}}}
}

// wayPW sets or changes the way there.
func (b *wireBatch) wayPW(w pseudowire, core int) {
	b.MPLSReplace(rtnl.MPLSRoute{In: w.In, Out: stackOf(w.Labels), Via: w.Via, DevIndex: core, Dev: w.Dev, Protocol: rtnl.ProtocolBGP})
}

// dropPW leaves the port in the group of those that are deleted together: the
// kernel waits once for all of them (18 ms) instead of once for each.
func (b *wireBatch) dropPW(w pseudowire) {
	group := uint32(rtnl.GroupDoomed)
	b.MPLSDel(w.In, rtnl.IgnoreMissing)
	b.FilterDel(fromLabel(w.In, w.In), rtnl.IgnoreMissing)
	b.LinkSet(rtnl.LinkChange{Index: portIndex(w.In), Group: &group}, rtnl.IgnoreMissing)
}

func (r reserved) filter() rtnl.Filter {
	f := rtnl.Filter{DevIndex: portIndex(r.Port), Dev: pseudowire{In: r.Port}.port(), Parent: rtnl.Egress,
		Prio: prioFlow, Handle: r.label(), Actions: toLabel(r.label())}
	switch any := (topo.MAC{}); {
	case r.Src == any && r.Dst == any:
		f.Prio += 3 // a matchall, whose priority it cannot share with flowers
		return f
	case r.Src == any:
		f.Prio++
	case r.Dst == any:
		f.Prio += 2
	}
	f.Flower = &rtnl.Flower{Src: r.Src, Dst: r.Dst}
	return f
}

func (b *wireBatch) setFlow(r reserved, core int) {
	filter := r.filter()
	b.Filter(fromLabel(r.In, r.Port))
	b.MPLSReplace(rtnl.MPLSRoute{In: r.label(), Out: stackOf(r.Labels), Via: r.Via, DevIndex: core, Dev: r.Dev, Protocol: rtnl.ProtocolBGP})
	if filter.Flower == nil {
		b.FilterDel(filter, rtnl.IgnoreMissing) // the kernel does not replace a matchall
	}
	b.Filter(filter)
}

func (b *wireBatch) dropFlow(r reserved) {
	b.FilterDel(r.filter(), rtnl.IgnoreMissing)
	b.MPLSDel(r.label(), rtnl.IgnoreMissing)
	b.FilterDel(fromLabel(r.In, r.Port), rtnl.IgnoreMissing)
}

// port is the port of a pseudowire as the kernel has it.
type port struct {
	bridge   string // "": none
	forwards bool   // and that isolated
}

func (f *kernelFIB) ports() (map[uint32]port, error) {
	links, err := f.conn.Links()
	if err != nil {
		return nil, fmt.Errorf("read pseudowires: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Index] = l.Name
	}
	out := map[uint32]port{}
	for _, l := range links {
		if label, ok := labelOf(l); ok {
			out[label] = port{names[l.Master], l.Isolated && l.Port == rtnl.PortForwarding}
		}
	}
	return out, nil
}

func (f *kernelFIB) gates(set []gate, flush []uint32) []error {
	errs := make([]error, len(set))
	f.batch.Reset()
	var slots []*error
	for i, g := range set {
		index, err := f.indexOf(g.port)
		if err != nil {
			errs[i] = err
			continue
		}
		closed := !g.open
		f.batch.PortSet(rtnl.PortChange{Index: index, Name: g.port, Closed: &closed, Flush: closed})
		slots = append(slots, &errs[i])
	}
	unasked := new(error)
	for _, label := range flush {
		f.batch.PortSet(rtnl.PortChange{Index: portIndex(label), Flush: true}, rtnl.IgnoreMissing)
		slots = append(slots, unasked)
	}
	f.settle(slots)
	return errs
}

// labelOf is the label of the pseudowire whose port l is.
func labelOf(l rtnl.LinkInfo) (label uint32, ok bool) {
	i := l.Index - rtnl.FirstSpeakerIndex
	return uint32(i / 2), l.Group == rtnl.GroupSpeaker && i >= 0 && i%2 == 0
}

// sweep removes by our marks: the groups, the protocol number, and all that is
// in the shared block at our priority. With next hops go the routes by them.
func (f *kernelFIB) sweep() (ports []string, err error) {
	links, err := f.conn.Links()
	if err != nil {
		return nil, fmt.Errorf("look for a predecessor's pseudowires: %w", err)
	}
	for _, l := range links {
		if _, ok := labelOf(l); ok {
			ports = append(ports, l.Name)
		}
	}
	routes, err := f.conn.MPLSRoutes(rtnl.ProtocolBGP)
	if err != nil {
		return nil, fmt.Errorf("look for a predecessor's labels: %w", err)
	}
	shared, err := f.conn.Nexthops(rtnl.ProtocolBGP)
	if err != nil {
		return nil, fmt.Errorf("look for a predecessor's next hops: %w", err)
	}
	var b rtnl.Batch
	for _, r := range routes {
		b.MPLSDel(r.In, rtnl.IgnoreMissing)
	}
	for _, n := range shared {
		b.NexthopDel(n.ID, rtnl.IgnoreMissing)
	}
	b.GroupDel(rtnl.GroupSpeaker, rtnl.IgnoreMissing)
	b.GroupDel(rtnl.GroupDoomed, rtnl.IgnoreMissing)
	filters := b.Len()
	b.FilterDel(rtnl.Filter{Block: mpls.PseudowireBlock, Prio: prioLabel, Protocol: rtnl.EtherMPLS}, rtnl.IgnoreMissing)
	refused, err := f.conn.Run(&b)
	for _, e := range refused {
		if e.Index != filters || e.Errno != unix.EINVAL { // EINVAL: there is no such block
			err = errors.Join(err, e)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("remove a predecessor's pseudowires and next hops: %w", err)
	}
	return ports, nil
}
