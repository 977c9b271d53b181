package fabric

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// look is what the kernel holds of the applied objects: those that somebody
// removed by hand, or that a failed Apply did not reach, are missing.
func (f *Fabric) look() (objects, error) {
	have := make(objects, len(f.applied))
	err := onThread(func() error {
		for _, n := range f.nodes {
			clear(n.stale)
		}
		for _, n := range f.nodes {
			there := objects{}
			if f.mounted(n) {
				var err error
				if there, err = n.look(); err != nil {
					return fmt.Errorf("look at node %s: %w", n.name, err)
				}
			} else {
				f.lost(n)
			}
			for k := range there {
				if o, ok := f.applied[k]; ok {
					have[k] = o
				}
			}
		}
		return nil
	})
	// What has no reading of its own is there when its carrier is.
	for k, o := range f.applied {
		if _, nsThere := have[key{rankNS, k.node, ""}]; !nsThere || f.suspect {
			continue
		}
		switch k.rank {
		case rankSysctl, rankRule:
			have[k] = o
		case rankEnd:
			if f.linkThere(have, k.node, k.dev()) {
				have[k] = o
			}
		}
	}
	for k := range have {
		if n := f.nodes[k.node]; n != nil && k.dev() != "" && n.stale[k.dev()] != 0 {
			delete(have, k)
		}
	}
	return have, err
}

// linkThere says whether either end of a link that has this end was found.
func (f *Fabric) linkThere(have objects, node, dev string) bool {
	if _, ok := have[key{rankLink, node, dev}]; ok {
		return true
	}
	for k, o := range have {
		if l, ok := o.(linkObj); ok && l.peerNode == node && l.peerIf == dev && k.rank == rankLink {
			return true
		}
	}
	return false
}

// mounted says whether the node's name still leads to its namespace.
func (f *Fabric) mounted(n *node) bool {
	var byName, byFD unix.Stat_t
	return unix.Stat(nsPath(f.lab, n.name), &byName) == nil &&
		unix.Fstat(int(n.ns.Fd()), &byFD) == nil && byName.Ino == byFD.Ino
}

// lost lets go of a namespace that somebody unmounted, and marks the far ends
// of its links: they go away with it, but not at once.
func (f *Fabric) lost(n *node) {
	for k, o := range f.applied {
		l, ok := o.(linkObj)
		if !ok {
			continue
		}
		if k.node == n.name {
			f.markStale(l.peerNode, l.peerIf)
		} else if l.peerNode == n.name {
			f.markStale(k.node, k.name)
		}
	}
	n.close()
	delete(f.nodes, n.name)
	_ = os.Remove(nsPath(f.lab, n.name)) // an unmounted name is an empty file
}

func (f *Fabric) markStale(node, dev string) {
	if n := f.nodes[node]; n != nil {
		n.stale[dev] = n.index[dev]
	}
}

// look reads the node's devices, addresses, routes and labels.
func (n *node) look() (objects, error) {
	if err := n.enter(); err != nil {
		return nil, err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	o := objects{key{rankNS, n.name, ""}: true}
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		if n.index[a.Name] != a.Index {
			if _, ours := n.index[a.Name]; ours {
				n.stale[a.Name] = a.Index
			}
			continue
		}
		o[key{rankLink, n.name, a.Name}] = true
		o[key{rankDevice, n.name, a.Name}] = true
		if a.MasterIndex != 0 {
			o[key{rankMaster, n.name, a.Name}] = true
		}
	}
	return o, n.lookRoutes(h, names, o)
}

func (n *node) lookRoutes(h *netlink.Handle, names map[int]string, o objects) error {
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IP.To4(), a.Mask); ok {
			o[key{rankAddr, n.name, names[a.LinkIndex] + " " + p.String()}] = true
		}
	}
	filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: rtnl.ProtocolFabric}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Dst != nil {
			dst, _ = prefixOf(r.Dst.IP.To4(), r.Dst.Mask)
		}
		table := r.Table
		if table == unix.RT_TABLE_MAIN {
			table = 0
		}
		// The netlink library reads the metric as a signed number.
		o[key{rankRoute, n.name, routeName(table, dst, int(uint32(r.Priority)))}] = true
	}
	labels, err := h.RouteList(nil, netlink.FAMILY_MPLS)
	if err != nil {
		return nil // no MPLS in this kernel: then there are no labels either
	}
	for _, r := range labels {
		if r.MPLSDst != nil {
			o[key{rankLabel, n.name, fmt.Sprint(*r.MPLSDst)}] = true
		}
	}
	return nil
}

func prefixOf(ip []byte, mask []byte) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	bits := 0
	for _, b := range mask {
		for ; b != 0; b <<= 1 {
			bits++
		}
	}
	return netip.PrefixFrom(a, bits), ok
}

func readProc(path string) (string, error) {
	data, err := os.ReadFile(path)
	return string(data), err
}
