package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// NodeView is a node as the kernel has it at this moment, whoever set it.
type NodeView struct {
	Node       string          `json:"node"`
	Namespace  string          `json:"namespace"`
	Interfaces []InterfaceView `json:"interfaces"`
	Routes     []RouteView     `json:"routes"`
}

// InterfaceView is one interface with its addresses, disciplines and counters.
type InterfaceView struct {
	Name    string   `json:"name"`
	Index   int      `json:"index"`
	Kind    string   `json:"kind"`
	MAC     string   `json:"mac,omitempty"`
	MTU     int      `json:"mtu"`
	Up      bool     `json:"up"`
	Carrier bool     `json:"carrier"`
	Master  string   `json:"master,omitempty"`
	Addrs   []string `json:"addresses,omitempty"`
	// Impairment is what packets that leave here meet, "" for nothing.
	Impairment string `json:"impairment,omitempty"`
	// Reserved is what is set aside of the line, and what of it was used.
	Reserved  []ReservedView `json:"reserved,omitempty"`
	Qdiscs    []string       `json:"qdiscs,omitempty"` // kind handle parent
	RxPackets uint64         `json:"rx_packets"`
	RxBytes   uint64         `json:"rx_bytes"`
	TxPackets uint64         `json:"tx_packets"`
	TxBytes   uint64         `json:"tx_bytes"`
	// Dropped counts packets that the interface's disciplines dropped.
	Dropped uint64 `json:"dropped"`
	// Ours: made by this package, not by hand.
	Ours bool `json:"ours"`
}

// ReservedView is a reservation on a line.
type ReservedView struct {
	Label   uint32    `json:"label"`
	Depth   int       `json:"depth"`   // of the label in the stack; 1 is the top
	Rate    topo.Rate `json:"rate"`    // bits a second
	Bytes   uint64    `json:"bytes"`   // sent
	Dropped uint64    `json:"dropped"` // packets that found its queue full
}

// reservations lists those of a line by label.
func (d division) reservations() (out []ReservedView) {
	for class, r := range d.by {
		c := d.classes[class]
		out = append(out, ReservedView{Label: r.label, Depth: r.depth, Rate: topo.Rate(r.rate), Bytes: c.Bytes, Dropped: c.Drops})
	}
	slices.SortFunc(out, func(a, b ReservedView) int {
		return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.Depth, b.Depth))
	})
	return out
}

// RouteView is one IPv4 route; the kernel's local and broadcast ones are left
// out.
type RouteView struct {
	Table    int    `json:"table"`
	Dst      string `json:"dst"`
	Via      string `json:"via,omitempty"`
	Dev      string `json:"dev,omitempty"`
	Src      string `json:"src,omitempty"`
	Metric   int    `json:"metric,omitempty"`
	Labels   []int  `json:"labels,omitempty"` // pushed, outermost first
	Type     string `json:"type"`             // unicast, unreachable …
	Protocol string `json:"protocol"`         // vpclab, bgp, kernel …
}

// Inspect reads a node from the kernel.
func (f *Fabric) Inspect(node string) (*NodeView, error) {
	h, err := f.open(node)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	nl, err := netlink.NewHandleAt(netns.NsHandle(h.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("inspect node %s: %w", node, err)
	}
	defer nl.Close()
	v := &NodeView{Node: node, Namespace: f.NSPath(node)}
	names, err := v.interfaces(nl)
	if err == nil {
		err = v.routes(nl, names)
	}
	if err != nil {
		return nil, fmt.Errorf("inspect node %s: %w", node, err)
	}
	f.impairments(node, v)
	return v, nil
}

func (v *NodeView) interfaces(nl *netlink.Handle) (map[int]string, error) {
	links, err := whole(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	qdiscs, err := whole(func() ([]netlink.Qdisc, error) { return nl.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, l := range links {
		a := l.Attrs()
		i := InterfaceView{Name: a.Name, Index: a.Index, Kind: l.Type(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
			Carrier: a.OperState == netlink.OperUp || a.RawFlags&unix.IFF_LOWER_UP != 0, Master: names[a.MasterIndex], Ours: a.Group == ownerGroup}
		if len(a.HardwareAddr) > 0 && a.Flags&net.FlagLoopback == 0 {
			i.MAC = a.HardwareAddr.String()
		}
		if s := a.Statistics; s != nil {
			i.RxPackets, i.RxBytes, i.TxPackets, i.TxBytes = s.RxPackets, s.RxBytes, s.TxPackets, s.TxBytes
		}
		for _, ad := range addrs {
			if ad.LinkIndex == a.Index {
				i.Addrs = append(i.Addrs, ad.IPNet.String())
			}
		}
		i.addQdiscs(qdiscs)
		v.Interfaces = append(v.Interfaces, i)
	}
	return names, nil
}

func (i *InterfaceView) addQdiscs(qdiscs []netlink.Qdisc) {
	for _, q := range qdiscs {
		a := q.Attrs()
		if a.LinkIndex != i.Index || q.Type() == "noqueue" {
			continue
		}
		i.Qdiscs = append(i.Qdiscs, fmt.Sprintf("%s %v parent %v", q.Type(), rtnl.Handle(a.Handle), rtnl.Handle(a.Parent)))
		if a.Statistics != nil && a.Statistics.Queue != nil && rtnl.Handle(a.Parent) == rtnl.Root {
			i.Dropped += uint64(a.Statistics.Queue.Drops)
		}
	}
}

func (v *NodeView) routes(nl *netlink.Handle, names map[int]string) error {
	routes, err := whole(func() ([]netlink.Route, error) {
		return nl.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL || r.Type == unix.RTN_BROADCAST {
			continue
		}
		v.Routes = append(v.Routes, routeView(r, names))
	}
	slices.SortFunc(v.Routes, func(a, b RouteView) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Dst, b.Dst), cmp.Compare(a.Metric, b.Metric))
	})
	return nil
}

func routeView(r netlink.Route, names map[int]string) RouteView {
	v := RouteView{Table: r.Table, Dst: defaultRoute.String(), Dev: names[r.LinkIndex], Metric: int(uint32(r.Priority)),
		Type: routeType(r.Type), Protocol: protocolName(int(r.Protocol))}
	if r.Dst != nil {
		v.Dst = r.Dst.String()
	}
	if r.Gw != nil {
		v.Via = r.Gw.String()
	}
	if r.Src != nil {
		v.Src = r.Src.String()
	}
	if e, ok := r.Encap.(*netlink.MPLSEncap); ok {
		v.Labels = e.Labels
	}
	return v
}

func routeType(t int) string {
	switch t {
	case unix.RTN_UNICAST:
		return "unicast"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_PROHIBIT:
		return "prohibit"
	}
	return strconv.Itoa(t)
}

func protocolName(p int) string {
	switch p {
	case rtnl.ProtocolFabric:
		return "vpclab"
	case rtnl.ProtocolBGP:
		return "bgp"
	case unix.RTPROT_KERNEL:
		return "kernel"
	case unix.RTPROT_BOOT:
		return "boot"
	case unix.RTPROT_STATIC:
		return "static"
	}
	return strconv.Itoa(p)
}

// impairments puts the disciplines of each interface into words, as far as
// they are of the form that this package makes.
func (f *Fabric) impairments(node string, v *NodeView) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[node]
	if n == nil {
		return
	}
	names := map[int]string{}
	for _, i := range v.Interfaces {
		names[i.Index] = i.Name
	}
	qdiscs, err := n.conn.Qdiscs()
	if err != nil {
		return // the plain list is there
	}
	seen, err := readLines(n.conn, qdiscs)
	if err != nil {
		return
	}
	for i := range v.Interfaces {
		if l, ok := seen[v.Interfaces[i].Index]; ok {
			v.Interfaces[i].Impairment = l.egress.String()
			v.Interfaces[i].Reserved = l.reservations()
		}
	}
}

// dumpAttempts bounds how often a table is read again because it changed
// while it was read.
const dumpAttempts = 10

func whole[T any](read func() ([]T, error)) (out []T, err error) {
	for range dumpAttempts {
		if out, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}
