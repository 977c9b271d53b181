package mpls

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// Tables are the labels and VPN routes of one namespace as the kernel has
// them, sorted, ready to print.
type Tables struct {
	Labels []Label `json:"labels,omitempty"`
	VRFs   []VRF   `json:"vrfs,omitempty"`
}

// Label is one entry of the incoming label map.
type Label struct {
	In     uint32   `json:"in"`
	Action string   `json:"action"`        // swap | pop
	Out    []uint32 `json:"out,omitempty"` // swap: outermost first
	Via    string   `json:"via,omitempty"`
	Dev    string   `json:"dev"`
}

// VRF is a VRF device with its table and what is in it.
type VRF struct {
	Name   string   `json:"name"`
	Table  int      `json:"table"`
	Ports  []string `json:"ports,omitempty"` // enslaved interfaces
	Routes []Route  `json:"routes"`
}

// Route is one IP route of a VRF table.
type Route struct {
	Prefix string   `json:"prefix"`           // "default" for 0.0.0.0/0
	Type   string   `json:"type"`             // unicast | unreachable
	Labels []uint32 `json:"labels,omitempty"` // pushed, outermost first
	Via    string   `json:"via,omitempty"`
	Dev    string   `json:"dev,omitempty"`
	Proto  string   `json:"proto"` // bgp: learned; fabric: from the plan; kernel; static …
	Metric uint32   `json:"metric,omitempty"`
	// Nexthop is the shared next hop that Labels, Via and Dev are of; 0: none.
	Nexthop uint32 `json:"nexthop,omitempty"`
}

// Read reads the tables of the namespace at nspath (as /run/netns/…); the
// empty path is the calling thread's own namespace.
func Read(nspath string) (*Tables, error) {
	h, err := handle(nspath)
	if err != nil {
		return nil, fmt.Errorf("read labels of %s: %w", describe(nspath), err)
	}
	defer h.Close()
	t := &Tables{}
	var links []netlink.Link
	err = settled(func() (err error) {
		links, err = h.LinkList()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read labels of %s: list links: %w", describe(nspath), err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	if t.Labels, err = readLabels(h, names); err != nil {
		return nil, fmt.Errorf("read labels of %s: %w", describe(nspath), err)
	}
	if t.VRFs, err = readVRFs(nspath, links, names); err != nil {
		return nil, fmt.Errorf("read VRFs of %s: %w", describe(nspath), err)
	}
	return t, nil
}

// readAttempts bounds how often a dump is read again because the kernel said
// that it changed underneath.
const readAttempts = 5

func settled(read func() error) (err error) {
	for range readAttempts {
		if err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return err
}

func describe(nspath string) string {
	if nspath == "" {
		return "this namespace"
	}
	return nspath
}

// handle opens a netlink socket in the namespace.
func handle(nspath string) (*netlink.Handle, error) {
	if nspath == "" {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	ns, err := netns.GetFromPath(nspath)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}

func readLabels(h *netlink.Handle, names map[int]string) ([]Label, error) {
	var routes []netlink.Route
	err := settled(func() (err error) {
		routes, err = h.RouteList(nil, netlink.FAMILY_MPLS)
		return err
	})
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil, nil // no mpls_router in this kernel: no labels
	}
	if err != nil {
		return nil, fmt.Errorf("list incoming labels: %w", err)
	}
	out := make([]Label, 0, len(routes))
	for _, r := range routes {
		if r.MPLSDst == nil {
			continue
		}
		l := Label{In: uint32(*r.MPLSDst), Action: "pop", Dev: names[r.LinkIndex]}
		if d, ok := r.NewDst.(*netlink.MPLSDestination); ok && d != nil && len(d.Labels) > 0 {
			l.Action, l.Out = "swap", labels(d.Labels)
		}
		if r.Via != nil {
			if v, ok := r.Via.(*netlink.Via); ok {
				l.Via = v.Addr.String()
			}
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Label) int { return cmp.Compare(a.In, b.In) })
	return out, nil
}

func readVRFs(nspath string, links []netlink.Link, names map[int]string) ([]VRF, error) {
	var vrfs []VRF
	at := map[int]int{}   // table -> position in vrfs
	port := map[int]int{} // device index -> position in vrfs
	for _, l := range links {
		v, ok := l.(*netlink.Vrf)
		if !ok {
			continue
		}
		at[int(v.Table)], port[v.Index] = len(vrfs), len(vrfs)
		vrfs = append(vrfs, VRF{Name: v.Name, Table: int(v.Table), Routes: []Route{}})
	}
	if len(vrfs) == 0 {
		return nil, nil
	}
	for _, l := range links {
		if i, ok := port[l.Attrs().MasterIndex]; ok {
			vrfs[i].Ports = append(vrfs[i].Ports, l.Attrs().Name)
		}
	}
	routes, shared, err := readRoutes(nspath)
	if err != nil {
		return nil, fmt.Errorf("list VRF routes: %w", err)
	}
	for _, r := range routes {
		i, ok := at[r.Table]
		if !ok || r.Local {
			continue
		}
		if n, refers := shared[r.Nexthop]; refers {
			r.Via, r.DevIndex, r.Labels = n.Via, n.DevIndex, n.Labels
		}
		vrfs[i].Routes = append(vrfs[i].Routes, vrfRoute(r, names))
	}
	for i := range vrfs {
		slices.SortFunc(vrfs[i].Routes, func(a, b Route) int {
			return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.Metric, b.Metric))
		})
	}
	slices.SortFunc(vrfs, func(a, b VRF) int { return cmp.Compare(a.Table, b.Table) })
	return vrfs, nil
}

// readRoutes reads the routes of all tables, which costs less than one table
// after the other, and the next hops that they may refer to.
func readRoutes(nspath string) (routes []rtnl.Route, shared map[uint32]rtnl.Nexthop, err error) {
	conn, err := dial(nspath)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	if routes, err = conn.Routes(0); err != nil {
		return nil, nil, err
	}
	nexthops, err := conn.Nexthops(0)
	if err != nil {
		return nil, nil, err
	}
	shared = make(map[uint32]rtnl.Nexthop, len(nexthops))
	for _, n := range nexthops {
		shared[n.ID] = n
	}
	return routes, shared, nil
}

func dial(nspath string) (*rtnl.Conn, error) {
	if nspath == "" {
		return rtnl.Dial()
	}
	ns, err := netns.GetFromPath(nspath)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return rtnl.DialNS(int(ns))
}

func vrfRoute(r rtnl.Route, names map[int]string) Route {
	out := Route{Prefix: "default", Type: "unicast", Dev: names[r.DevIndex], Proto: protocol(int(r.Protocol)),
		Metric: uint32(r.Metric), Labels: r.Labels, Nexthop: r.Nexthop}
	if r.Unreachable {
		// The kernel reports lo as the device of a reject route.
		out.Type, out.Dev = "unreachable", ""
	}
	if r.Dst.Bits() > 0 {
		out.Prefix = r.Dst.String()
	}
	if r.Via.IsValid() {
		out.Via = r.Via.String()
	}
	return out
}

func labels(in []int) []uint32 {
	out := make([]uint32, len(in))
	for i, l := range in {
		out[i] = uint32(l)
	}
	return out
}

// protocol names the origin of a route as `ip route` does.
func protocol(p int) string {
	switch p {
	case unix.RTPROT_KERNEL:
		return "kernel"
	case unix.RTPROT_BOOT:
		return "boot"
	case unix.RTPROT_STATIC:
		return "static"
	case rtnl.ProtocolBGP:
		return "bgp"
	case rtnl.ProtocolFabric:
		return "fabric"
	}
	return strconv.Itoa(p)
}

// comparePrefixes orders routes by address, the default route last.
func comparePrefixes(a, b string) int {
	pa, ea := netip.ParsePrefix(a)
	pb, eb := netip.ParsePrefix(b)
	if ea != nil || eb != nil {
		return cmp.Compare(boolInt(ea != nil), boolInt(eb != nil))
	}
	if c := pa.Addr().Compare(pb.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(pa.Bits(), pb.Bits())
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
