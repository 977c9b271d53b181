package frr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/emu/bgp"
)

// The daemons, by the names of their programs.
const (
	zebra   = "zebra"   // routes and labels to the kernel
	staticd = "staticd" // the controller's tunnels
	ospfd   = "ospfd"   // ways to loopbacks
	ldpd    = "ldpd"    // labels for them
	bgpd    = "bgpd"    // VPN routes
)

// daemons are all there are, in the order in which they are told what to do:
// each after those whose work it builds on.
var daemons = []string{zebra, staticd, ospfd, ldpd, bgpd}

// Session timers where bgp.Config leaves them open, in seconds: those of the
// GoBGP speakers.
const (
	keepalive = 3
	hold      = 9
)

// OSPF and LDP say hello each second, the least without OSPF's "minimal" mode.
// A neighbour is dead after helloHold: a machine that is busy can be silent
// for some seconds, and a link that fails is seen by its carrier at once.
const (
	hello     = 1
	helloHold = 10
)

// ownRoutes is the route map that has a route's packets carry the loopback as
// their source: other routers know the way back to that alone.
const ownRoutes = "loopback"

// nobodys is the route target that a VRF exports besides each site's own. FRR
// exports nothing of a VRF that has no route target for all its routes; this
// one is of no VPC, as those count from 1, so that nobody imports it.
func nobodys(asn uint32) string { return fmt.Sprintf("%d:0", asn) }

// render is what each daemon is told, by name. A daemon that has nothing to do
// is not in it.
func render(c *bgp.Config) map[string][]block {
	out := map[string][]block{zebra: renderZebra(c)}
	if c.Core != nil {
		out[ospfd] = renderOSPF(c)
		out[ldpd] = renderLDP(c)
	} else {
		out[staticd] = renderStatic(c)
	}
	if len(c.Neighbors) > 0 {
		out[bgpd] = renderBGP(c)
	}
	return out
}

func renderZebra(c *bgp.Config) []block {
	source := "static"
	if c.Core != nil {
		source = "ospf"
	}
	return []block{
		routeMap(ownRoutes, set("set src", c.RouterID.String())),
		{lines: say(
			// Each route with its label stack, as it is told to the kernel by
			// others too, instead of a reference to a next hop object.
			"no zebra nexthop kernel enable",
			"ip protocol "+source+" route-map "+ownRoutes,
		)},
	}
}

// renderStatic are the controller's tunnels: bgpd takes a next hop of a VPN
// route only where the way to it is labelled, and staticd takes no label that
// is not sent (implicit null).
func renderStatic(c *bgp.Config) []block {
	var lines []line
	for _, t := range c.Tunnels {
		lines = append(lines, line{text: fmt.Sprintf("ip route %s/32 %s %s label %d", t.Egress, t.Via, t.Dev, t.Label)})
	}
	return []block{{lines: lines}}
}

func renderOSPF(c *bgp.Config) []block {
	router := block{head: "router ospf", lines: []line{
		set("ospf router-id", c.RouterID.String()),
		// React at once, and wait only where changes come thick and fast.
		{text: "timers throttle spf 0 50 1000", key: "timers throttle spf"},
		{text: "timers throttle lsa all 0", key: "timers throttle lsa all"},
		set("timers lsa min-arrival", "0"),
		// One path, as the controller has it.
		set("maximum-paths", "1"),
		{text: fmt.Sprintf("network %s/32 area 0", c.RouterID)},
	}}
	var blocks []block
	for _, l := range c.Core.Links {
		blocks = append(blocks, block{head: "interface " + l.Dev, lasting: true, lines: []line{
			set("ip ospf network", "point-to-point"),
			set("ip ospf hello-interval", fmt.Sprint(hello)),
			set("ip ospf dead-interval", fmt.Sprint(helloHold)),
			set("ip ospf retransmit-interval", fmt.Sprint(hello)),
			set("ip ospf cost", fmt.Sprint(l.Cost)),
		}})
		router.lines = append(router.lines, line{text: fmt.Sprintf("network %s area 0", l.Addr.Masked())})
	}
	if len(c.Core.Silent) > 0 {
		const name = "silent"
		var lines []line
		for _, p := range c.Core.Silent {
			lines = append(lines, line{text: fmt.Sprintf("ip prefix-list %s permit %s", name, p)})
		}
		blocks = append(blocks,
			block{lines: lines},
			routeMap(name, line{text: "match ip address prefix-list " + name}))
		router.lines = append(router.lines, line{text: "redistribute kernel route-map " + name, key: "redistribute kernel"})
	}
	return append(blocks, router)
}

func renderLDP(c *bgp.Config) []block {
	family := block{head: "address-family ipv4", lines: []line{
		set("discovery transport-address", c.RouterID.String()),
		// Labels for loopbacks, which is where LSPs go.
		{text: "label local allocate host-routes"},
	}}
	for _, l := range c.Core.Links {
		family.blocks = append(family.blocks, block{head: "interface " + l.Dev})
	}
	return []block{{head: "mpls ldp", lines: []line{
		set("router-id", c.RouterID.String()),
		set("discovery hello interval", fmt.Sprint(hello)),
		set("discovery hello holdtime", fmt.Sprint(helloHold)),
	}, blocks: []block{family}}}
}

// ownNextHop is the route map that has the PE's loopback as next hop of all
// that it announces: exported routes keep the one they had in their VRF.
const ownNextHop = "own-next-hop"

func renderBGP(c *bgp.Config) []block {
	router := block{head: fmt.Sprintf("router bgp %d", c.ASN), lines: []line{
		set("bgp router-id", c.RouterID.String()),
		{text: "bgp log-neighbor-changes"},
		{text: "no bgp default ipv4-unicast"},
		// The routes of a peer that went away go at once.
		{text: "bgp graceful-restart-disable"},
		// There is one peer: nothing to wait for so as to say it to several.
		set("coalesce-time", "0"),
	}}
	vpn := block{head: "address-family ipv4 vpn"}
	for _, n := range c.Neighbors {
		peer := "neighbor " + n.String() + " "
		router.lines = append(router.lines,
			set(peer+"remote-as", fmt.Sprint(c.ASN)),
			set(peer+"update-source", c.RouterID.String()),
			line{text: fmt.Sprintf("%stimers %d %d", peer, orDefault(c.Keepalive, keepalive), orDefault(c.Hold, hold)), key: peer + "timers"},
			set(peer+"timers connect", "1"),
		)
		if c.Port != 0 {
			router.lines = append(router.lines, set(peer+"port", fmt.Sprint(c.Port)))
		}
		vpn.lines = append(vpn.lines,
			line{text: peer + "activate"},
			line{text: peer + "route-map " + ownNextHop + " out"})
	}
	router.blocks = []block{vpn}
	blocks := []block{routeMap(ownNextHop, set("set ipv4 vpn next-hop", c.RouterID.String()))}
	var vrfs []block
	for _, v := range c.VRFs {
		maps, vrf := renderVRF(c, v)
		blocks = append(blocks, maps...)
		vrfs = append(vrfs, vrf)
	}
	return append(append(blocks, router), vrfs...)
}

// renderVRF exports the prefix of each site with the site's own route target,
// and imports by the targets of all of them. The fabric's route to the site is
// in the VRF's table, where FRR finds it; `redistribute kernel` would find it
// too, but then bgpd lets a change of what may pass lie for seconds.
func renderVRF(c *bgp.Config, v bgp.VRF) (maps []block, vrf block) {
	family := block{head: "address-family ipv4 unicast"}
	var imports []string
	for _, k := range v.Circuits {
		name := v.Name + "-" + k.Site
		maps = append(maps, routeMap(name,
			set("set extcommunity rt", k.ExportRT),
			set("set ip next-hop", inside(k.Prefix).String())))
		family.lines = append(family.lines, line{text: fmt.Sprintf("network %s route-map %s", k.Prefix, name), key: "network " + k.Prefix.String()})
		if !slices.Contains(imports, k.ImportRT) {
			imports = append(imports, k.ImportRT)
		}
	}
	family.lines = append(family.lines,
		set("label vpn export", fmt.Sprint(v.Label)),
		set("rd vpn export", v.RD),
		set("rt vpn export", nobodys(c.ASN)),
		set("rt vpn import", strings.Join(imports, " ")),
		line{text: "export vpn"},
		line{text: "import vpn"},
	)
	return maps, block{
		head:   fmt.Sprintf("router bgp %d vrf %s", c.ASN, v.Name),
		lines:  []line{set("bgp router-id", c.RouterID.String()), {text: "no bgp default ipv4-unicast"}},
		blocks: []block{family},
	}
}

// inside is an address of p: the next hop of a site's route in its VRF. FRR 8
// exports a network only when its next hop can be reached there, and takes the
// one that it gives it by itself for one that cannot. The CE's address will
// not do: FRR 8 may miss the address of an interface that is new (its threads
// read links and addresses each for themselves). What leads into the site is
// the fabric's route, so the site is announced when that is there.
func inside(p netip.Prefix) netip.Addr {
	if a := p.Masked().Addr().Next(); p.Contains(a) {
		return a
	}
	return p.Addr()
}

func routeMap(name string, lines ...line) block {
	return block{head: "route-map " + name + " permit 10", lines: lines}
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}
