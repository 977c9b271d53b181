package scenarios

import (
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// entries are things configured somewhere, by what identifies them; the value
// is what they say. What a change touches is counted by reading them before
// and after it.
type entries map[string]string

// touched counts the entries that were added, removed or changed between two
// readings; one that changed counts once.
func touched(before, after entries) (n int) {
	for k, was := range before {
		if is, still := after[k]; !still || is != was {
			n++
		}
	}
	for k := range after {
		if _, had := before[k]; !had {
			n++
		}
	}
	return n
}

// differences lists what touched counts, for evidence.
func differences(before, after entries) (lines []string) {
	for k, was := range before {
		if is, still := after[k]; !still {
			lines = append(lines, "- "+k+": "+was)
		} else if is != was {
			lines = append(lines, "~ "+k+": "+was+" -> "+is)
		}
	}
	for k, is := range after {
		if _, had := before[k]; !had {
			lines = append(lines, "+ "+k+": "+is)
		}
	}
	slices.Sort(lines)
	return lines
}

// merge is all entries of several readings; their keys are distinct.
func merge(all ...entries) entries {
	out := entries{}
	for _, e := range all {
		maps.Copy(out, e)
	}
	return out
}

// speakerEntries are the lines of VPN configuration that PEs and the route
// reflector have been told and have acknowledged: a VRF, a circuit, a route
// target that a VPC takes routes from or gives them to.
func speakerEntries(configs map[string]bgp.Config) entries {
	out := entries{}
	for node, c := range configs {
		for _, v := range c.VRFs {
			out[fmt.Sprintf("%s vrf %s", node, v.Name)] = fmt.Sprintf("table %d rd %s label %d", v.Table, v.RD, v.Label)
			for _, s := range v.Circuits {
				out[fmt.Sprintf("%s circuit %s %s", node, v.Name, s.Site)] = fmt.Sprintf("%s export %s import %s", s.Prefix, s.ExportRT, s.ImportRT)
			}
		}
		for _, v := range c.VSIs {
			out[fmt.Sprintf("%s vsi %s", node, v.Name)] = fmt.Sprintf("ve %d rd %s labels from %d", v.VEID, v.RD, v.LabelBase)
			for i, rt := range v.ExportRTs { // a circuit each
				out[fmt.Sprintf("%s circuit %s %s", node, v.Name, rt)] = "import " + v.ImportRTs[min(i, len(v.ImportRTs)-1)]
			}
		}
		for _, r := range c.Policy {
			for _, rt := range r.From {
				out[fmt.Sprintf("%s policy %s from %s", node, r.Name, rt)] = "accept"
			}
			for _, rt := range r.To {
				out[fmt.Sprintf("%s policy %s to %s", node, r.Name, rt)] = "send"
			}
		}
	}
	return out
}

// routerEntries are the labels and VPN routes that the kernels of the routers
// hold.
func routerEntries(f *fabric.Fabric, plan *topo.Plan) (entries, error) {
	out := entries{}
	for _, n := range plan.Nodes {
		if n.Kind != topo.KindPE && n.Kind != topo.KindP {
			continue
		}
		tables, err := mpls.Read(f.NSPath(n.Name))
		if err != nil {
			return nil, err
		}
		for _, l := range tables.Labels {
			out[fmt.Sprintf("%s label %d", n.Name, l.In)] = fmt.Sprintf("%s %v %s %s", l.Action, l.Out, l.Via, l.Dev)
		}
		for _, v := range tables.VRFs {
			for _, r := range v.Routes {
				out[fmt.Sprintf("%s %s %s %d", n.Name, v.Name, r.Prefix, r.Metric)] = fmt.Sprintf("%s %v %s %s", r.Type, r.Labels, r.Via, r.Dev)
			}
		}
	}
	return out, nil
}

// nodeEntries are the interfaces, addresses, routes and rules of a machine or
// CE as its kernel holds them. Firewall rules, neighbours and sysctls are not
// read: what somebody changed there would not be seen.
func nodeEntries(f *fabric.Fabric, node string) (entries, error) {
	out := entries{}
	err := f.Do(node, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return readNode(h, node, out)
	})
	if err != nil {
		return nil, fmt.Errorf("read the configuration of %s: %w", node, err)
	}
	return out, nil
}

func readNode(h *netlink.Handle, node string, out entries) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range links {
		a := l.Attrs()
		out[fmt.Sprintf("%s interface %s", node, a.Name)] = fmt.Sprintf("%s %s mtu %d %s master %s", l.Type(), a.HardwareAddr, a.MTU, a.Flags&net.FlagUp, names[a.MasterIndex])
	}
	addrs, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses: %w", err)
	}
	for _, a := range addrs {
		out[fmt.Sprintf("%s address %s %s", node, a.IPNet, names[a.LinkIndex])] = "set"
	}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue // follows from an address
		}
		out[fmt.Sprintf("%s route %s table %d", node, r.Dst, r.Table)] = fmt.Sprintf("via %s dev %s", r.Gw, names[r.LinkIndex])
	}
	rules, err := h.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	for _, r := range rules {
		out[fmt.Sprintf("%s rule %d", node, r.Priority)] = fmt.Sprintf("table %d", r.Table)
	}
	return nil
}
