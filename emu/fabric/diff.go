package fabric

import (
	"slices"
	"strings"
)

// Changes is what an Apply did or would do, in order.
type Changes []Change

// Change is one line of a plan. It is put into words only when somebody asks: a
// large lab has thousands, of which as a rule nobody reads one.
type Change struct {
	Op       string // "+", "-", "~"
	key      key
	from, to object // nil: it was not there, or will not be
}

// String is the change in words, as in the lines of Changes.
func (c Change) String() string {
	object := c.to
	if object == nil {
		object = c.from
	}
	name, detail := c.key.describe(object)
	if c.Op == "~" {
		_, was := c.key.describe(c.from)
		detail = was + " -> " + detail
	}
	if detail != "" {
		detail = " (" + detail + ")"
	}
	return c.Op + " " + name + detail
}

// Empty says that nothing differs.
func (c Changes) Empty() bool { return len(c) == 0 }

// String is one line a change: "+ pe1: bridge lan (02:…)".
func (c Changes) String() string {
	var s strings.Builder
	for _, ch := range c {
		s.WriteString(ch.String())
		s.WriteByte('\n')
	}
	return s.String()
}

// work is the difference of what is there and what should be, ready to be
// carried out.
type work struct {
	del objects // to remove; what goes away with something greater is not in it
	add objects // to make, or to change where old has the key
	old objects

	order []key // of add, once it is known
}

// added are the keys of add in order.
func (w *work) added() []key {
	if w.order == nil {
		w.order = w.add.keys()
	}
	return w.order
}

// end is a device of a node.
type end struct{ node, dev string }

// Diff lists what leads from one State to another: + for what comes, - for
// what goes, ~ for what changes.
func Diff(have, want State) Changes {
	_, changes := diff(flatten(have), flatten(want))
	return changes
}

func diff(have, want objects) (*work, Changes) {
	if len(have) == 0 { // a new lab: all of it
		w := &work{add: want}
		return w, w.list(have, want)
	}
	w := &work{del: objects{}, add: objects{}, old: objects{}}
	for k, o := range have {
		n, ok := want[k]
		switch {
		case !ok:
			w.del[k] = o
		case n == o:
		case changeable(o, n):
			w.add[k], w.old[k] = n, o
		default:
			w.del[k], w.add[k] = o, n
		}
	}
	for k, o := range want {
		if _, ok := have[k]; !ok {
			w.add[k] = o
		}
	}
	w.cascade(want)
	return w, w.list(have, want)
}

// changeable says that the kernel can turn one value into the other.
func changeable(from, to object) bool {
	switch f := from.(type) {
	case sysctlObj, masterObj, qdiscObj, sharedObj, classObj, routeObj, labelObj, nsObj, unnamed, bridgeObj:
		return true
	case vrfObj:
		t, ok := to.(vrfObj)
		return ok && f.table == t.table
	case linkObj:
		t := to.(linkObj)
		return f.peerNode == t.peerNode && f.peerIf == t.peerIf
	}
	return false
}

// cascade takes account of what the kernel does by itself: what hangs on a
// device goes with it, and routes go with addresses, devices and a change of
// master. What is still wanted of these is made again.
func (w *work) cascade(want objects) {
	gone := map[end]bool{}
	rerouted := map[string]bool{} // nodes
	for k, o := range w.del {
		switch k.rank {
		case rankDevice:
			gone[end{k.node, k.dev}] = true
			rerouted[k.node] = true
		case rankLink:
			l := o.(linkObj)
			gone[end{k.node, k.dev}], gone[end{l.peerNode, l.peerIf}] = true, true
			rerouted[k.node], rerouted[l.peerNode] = true, true
		case rankAddr, rankMaster:
			rerouted[k.node] = true
		}
	}
	for k, o := range w.old {
		switch v := o.(type) {
		case bridgeObj:
			now := w.add[k].(bridgeObj)
			now.ageing = v.ageing // which moves nothing
			rerouted[k.node] = rerouted[k.node] || now != v
		case masterObj, vrfObj:
			rerouted[k.node] = true
		case linkObj:
			rerouted[k.node], rerouted[v.peerNode] = true, true
		}
	}
	for k, o := range w.add { // a port joins a VRF: its addresses move to another table
		if _, ok := o.(masterObj); ok {
			rerouted[k.node] = true
		}
	}
	for k := range w.del {
		if w.implied(k, gone) {
			delete(w.del, k)
		}
	}
	if len(gone) == 0 && len(rerouted) == 0 {
		return
	}
	for k, o := range want {
		m, isPort := o.(masterObj)
		if k.rank > rankLink && k.dev != "" && gone[end{k.node, k.dev}] ||
			isPort && gone[end{k.node, m.master}] ||
			k.rank == rankSysctl && k.late() && gone[end{k.node, k.sysctlDevice()}] ||
			k.rank >= rankRoute && k.rank <= rankLabel && rerouted[k.node] {
			w.add[k] = o
			if k.rank < rankRoute {
				delete(w.old, k)
			}
		}
	}
}

// implied says that k goes away with something greater. A sysctl never goes:
// it has no "absent", and keeps its value until the namespace ends.
func (w *work) implied(k key, gone map[end]bool) bool {
	if k.rank == rankNS {
		return false
	}
	_, nsGone := w.del[key{rankNS, k.node, "", ""}]
	if l, ok := w.del[k].(linkObj); ok {
		// The kernel ends a namespace in its own time; where the far end
		// stays, the link is taken away there first.
		_, peerGone := w.del[key{rankNS, l.peerNode, "", ""}]
		return nsGone && peerGone
	}
	return nsGone || k.rank == rankSysctl || k.rank > rankLink && k.dev != "" && gone[end{k.node, k.dev}]
}

// list writes the changes for people: what differs, not what follows from it.
func (w *work) list(have, want objects) Changes {
	out := make(Changes, 0, len(w.del)+len(w.add))
	gone := w.del.keys()
	slices.Reverse(gone)
	for _, k := range gone {
		if _, ok := want[k]; !ok {
			out = append(out, Change{"-", k, have[k], nil})
		}
	}
	for _, k := range w.added() {
		o := want[k]
		switch old, had := have[k]; {
		case !had:
			out = append(out, Change{"+", k, nil, o})
		case old != o:
			out = append(out, Change{"~", k, old, o})
		}
	}
	return out
}
