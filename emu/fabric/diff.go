package fabric

import (
	"fmt"
	"strings"
)

// Changes is what an Apply did or would do, in order.
type Changes []Change

// Change is one line of a plan.
type Change struct {
	Op     string `json:"op"` // "+", "-", "~"
	Object string `json:"object"`
	Detail string `json:"detail,omitempty"`
}

// Empty says that nothing differs.
func (c Changes) Empty() bool { return len(c) == 0 }

// String is one line a change: "+ pe1: bridge lan".
func (c Changes) String() string {
	var s strings.Builder
	for _, ch := range c {
		fmt.Fprintf(&s, "%s %s", ch.Op, ch.Object)
		if ch.Detail != "" {
			fmt.Fprintf(&s, " (%s)", ch.Detail)
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// work is the difference of two States, ready to be carried out.
type work struct {
	del, add objects // a changed object that cannot be replaced in place is in both
	changes  Changes
	have     objects // of del
	changed  map[key]bool
}

// replaceable says that adding the new value replaces the old one.
func replaceable(k key) bool {
	switch k.rank {
	case rankSysctl, rankMaster, rankRoute, rankLabel:
		return true
	case rankEnd:
		return strings.HasSuffix(k.name, " qdisc")
	}
	return false
}

// diff compares what is there with what should be.
func diff(have, want objects) *work {
	w := &work{del: objects{}, add: objects{}, have: have, changed: map[key]bool{}}
	for k, o := range have {
		if n, ok := want[k]; !ok {
			w.del[k] = o
		} else if n != o {
			w.changed[k] = true
			w.add[k] = n
			if !replaceable(k) {
				w.del[k] = o
			}
		}
	}
	for k, o := range want {
		if _, ok := have[k]; !ok {
			w.add[k] = o
		}
	}
	w.cascade(want)
	w.list(have, want)
	w.skipImplied()
	return w
}

// cascade adds again what the removal of a device or address takes along:
// everything on the device, and all routes and labels of the node.
func (w *work) cascade(want objects) {
	gone := map[[2]string]bool{} // node, device
	touched := map[string]bool{} // nodes whose routes must be asserted again
	for k, o := range w.del {
		switch k.rank {
		case rankNS:
			gone[[2]string{k.node, ""}] = true
		case rankDevice:
			gone[[2]string{k.node, k.name}] = true
		case rankLink:
			l := o.(linkObj)
			gone[[2]string{k.node, k.name}] = true
			gone[[2]string{l.peerNode, l.peerIf}] = true
			touched[l.peerNode] = true
		}
		if k.rank <= rankAddr && k.rank != rankSysctl {
			touched[k.node] = true
		}
	}
	for k := range w.changed {
		if k.rank == rankMaster {
			touched[k.node] = true
			gone[[2]string{k.node, k.name + " master"}] = true
		}
	}
	for k, o := range want {
		dev := k.dev()
		lost := gone[[2]string{k.node, ""}] || dev != "" && gone[[2]string{k.node, dev}]
		if m, ok := o.(masterObj); ok && gone[[2]string{k.node, m.master}] {
			lost = true
		}
		if k.rank >= rankRoute && touched[k.node] || lost && k.rank != rankSysctl {
			w.add[k] = o
		}
	}
}

// list writes the changes for people: what differs, not what follows from it.
func (w *work) list(have, want objects) {
	for _, k := range w.del.sorted() {
		if !w.changed[k] && !w.impliedDel(k) {
			name, detail := k.describe(have[k])
			w.changes = append(w.changes, Change{"-", name, detail})
		}
	}
	for _, k := range w.add.sorted() {
		old, had := have[k]
		switch {
		case !had:
			name, detail := k.describe(want[k])
			w.changes = append(w.changes, Change{"+", name, detail})
		case old != want[k]:
			name, detail := k.describe(want[k])
			_, was := k.describe(old)
			w.changes = append(w.changes, Change{"~", name, was + " -> " + detail})
		}
	}
}

// skipImplied drops removals that a greater removal takes along.
func (w *work) skipImplied() {
	for k := range w.del {
		if w.impliedDel(k) {
			delete(w.del, k)
		}
	}
}

func (w *work) impliedDel(k key) bool {
	if k.rank == rankNS {
		return false
	}
	if k.rank == rankSysctl {
		return true // a sysctl has no "absent"; it goes with its namespace
	}
	if _, ok := w.del[key{rankNS, k.node, ""}]; ok {
		return true
	}
	if l, ok := w.del[k].(linkObj); ok {
		if _, gone := w.del[key{rankNS, l.peerNode, ""}]; gone {
			return true
		}
	}
	return false
}
