package fabric

import (
	"errors"
	"fmt"
)

// maxIfname is the length of an interface name: IFNAMSIZ without the zero.
const maxIfname = 15

// check finds what no kernel could do: names that lead nowhere. Everything
// else is for the kernel to refuse.
func (s State) check() error {
	var errs []error
	devices := make(map[end]bool, 3*len(s.Nodes))
	device := func(what string, e end) {
		switch {
		case e.dev == "" || len(e.dev) > maxIfname:
			errs = append(errs, fmt.Errorf("%s: interface name %q: want 1 to %d bytes", what, e.dev, maxIfname))
		case devices[e]:
			errs = append(errs, fmt.Errorf("%s: node %s has two interfaces called %s", what, e.node, e.dev))
		}
		devices[e] = true
	}
	for _, name := range sortedKeys(s.Nodes) {
		n := s.Nodes[name]
		device("node "+name, end{name, "lo"})
		for _, b := range n.Bridges {
			device("bridge of "+name, end{name, b.Name})
		}
		for _, v := range n.VRFs {
			device("VRF of "+name, end{name, v.Name})
		}
	}
	for _, name := range sortedKeys(s.Links) {
		l := s.Links[name]
		for _, e := range [2]End{l.A, l.B} {
			if _, ok := s.Nodes[e.Node]; !ok {
				errs = append(errs, fmt.Errorf("link %s: node %s: %w", name, e.Node, ErrNoNode))
			}
			if e.Master != "" && !devices[end{e.Node, e.Master}] {
				errs = append(errs, fmt.Errorf("link %s: node %s has no bridge or VRF %s", name, e.Node, e.Master))
			}
			device("link "+name, end{e.Node, e.Ifname})
			if err := e.checkClasses(); err != nil {
				errs = append(errs, fmt.Errorf("link %s: %w", name, err))
			}
		}
	}
	for _, name := range sortedKeys(s.Nodes) {
		for _, r := range s.Nodes[name].Rules {
			if r.Iif != "" && !devices[end{name, r.Iif}] {
				errs = append(errs, fmt.Errorf("node %s: rule %d: no interface %s", name, r.Pref, r.Iif))
			}
		}
		for _, r := range s.Nodes[name].Routes {
			if r.Dev != "" && !devices[end{name, r.Dev}] {
				errs = append(errs, fmt.Errorf("node %s: route %v: no interface %s", name, r.Dst, r.Dev))
			}
		}
		for _, m := range s.Nodes[name].MPLS {
			if m.Dev != "" && !devices[end{name, m.Dev}] {
				errs = append(errs, fmt.Errorf("node %s: label %d: no interface %s", name, m.In, m.Dev))
			}
		}
	}
	return errors.Join(errs...)
}
