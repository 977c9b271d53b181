package mpls_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// dataPlane builds the network with the VPN routes that BGP would bring, and
// machines that answer.
func dataPlane(t *testing.T, name string) *vpntest.Lab {
	kerneltest.Need(t)
	plan := vpntest.Plan(t, name, vpntest.CoreMTU)
	l := vpntest.New(t, plan, nil)
	l.Converge(vpntest.WithVPNRoutes(plan, vpntest.State(plan)))
	l.Answer()
	return l
}

func TestDataPlane(t *testing.T) {
	l := dataPlane(t, "dp")
	// One lab for all that leaves it as it was; each subtest puts back what it
	// turns off to prove that its guard is what stops the packet.
	t.Run("tenants with the same prefixes meet only their own", func(t *testing.T) { tenantsApart(t, l) })
	t.Run("labels and TTL on every hop", func(t *testing.T) { stackOnEveryHop(t, l) })
	t.Run("traceroute", func(t *testing.T) { traceroute(t, l) })
	t.Run("full-size packet", func(t *testing.T) { fullSize(t, l) })
	t.Run("provider addresses are out of reach", func(t *testing.T) { coreOutOfReach(t, l) })
	t.Run("unknown destination does not leak into the core", func(t *testing.T) { noLeak(t, l) })
	t.Run("forged label from a CE is dropped", func(t *testing.T) { forgedLabel(t, l) })
	t.Run("strict mode", func(t *testing.T) { strictMode(t, l) })
	t.Run("label table ends after the last label", func(t *testing.T) { labelTable(t, l) })
	t.Run("core sessions survive a strict default of rp_filter", func(t *testing.T) { reversePath(t, l) })
	t.Run("a router asks for its next hop in its own name", func(t *testing.T) { asksInItsOwnName(t, l) })
	t.Run("read back", func(t *testing.T) { readBack(t, l) })
}

func tenantsApart(t *testing.T, l *vpntest.Lab) {
	for _, from := range l.Plan.Machines() {
		for _, site := range []string{"s1", "s2", "s3"} {
			to := address(l, "red", site)
			want := name(l, from.VPC, site)
			wait := vpntest.Patience
			if want == "" {
				wait = vpntest.Silence
			}
			if to == from.Addr {
				continue
			}
			got := l.Ask(vpntest.Question{From: from.Name, To: to, Wait: wait})
			require.Equal(t, want, got.Name, "%s asks %s: %+v", from.Name, to, got)
		}
	}
}

func name(l *vpntest.Lab, vpc, site string) string {
	for _, m := range l.Plan.Machines() {
		if m.VPC == vpc && m.Site == site {
			return m.Name
		}
	}
	return ""
}

func address(l *vpntest.Lab, vpc, site string) netip.Addr {
	n, _ := l.Plan.Node(name(l, vpc, site))
	return n.Addr
}

// stackOnEveryHop computes each hop's labels and TTL from the plan and
// compares them with the frame on the wire.
func stackOnEveryHop(t *testing.T, l *vpntest.Lab) {
	for _, c := range []struct{ vpc, from, to string }{{"red", "s1", "s2"}, {"red", "s2", "s3"}, {"blue", "s2", "s1"}, {"red", "s3", "s1"}} {
		t.Run(c.vpc+" "+c.from+" to "+c.to, func(t *testing.T) {
			v, _ := l.Plan.VPC(c.vpc)
			src, dst := attachment(v, c.from), attachment(v, c.to)
			hops := lspHops(t, l.Plan, src.PE, dst.PE)
			var wires []*vpntest.Wire
			for _, h := range hops {
				wires = append(wires, l.Tap(h.Node, h.Dev))
			}
			ac := l.Tap(dst.PE, dst.PEIf)
			got := l.Ask(vpntest.Question{From: src.Machines[0], To: address(l, c.vpc, c.to), TTL: 50})
			require.Equal(t, dst.Machines[0], got.Name)

			// The CE and the ingress PE took one each; the VPN label keeps that
			// TTL, the LSP label loses one at each further router.
			egress, _ := v.VRF(dst.PE)
			const ingress = 48
			ttl := uint8(ingress)
			toward := func(f vpntest.Frame) bool {
				return f.Out && f.Proto == unix.IPPROTO_UDP && f.Dst == address(l, c.vpc, c.to)
			}
			for i, h := range hops {
				want := []vpntest.LSE{{Label: egress.Label, Bottom: true, TTL: ingress}}
				if h.OutLabel != 0 {
					want = append([]vpntest.LSE{{Label: h.OutLabel, TTL: ttl}}, want...)
				}
				f, ok := wires[i].Next(vpntest.Patience, toward)
				require.True(t, ok, "nothing on %s:%s", h.Node, h.Dev)
				t.Logf("%s:%s %s", h.Node, h.Dev, f)
				require.Equal(t, want, f.Stack, "on %s:%s", h.Node, h.Dev)
				ttl--
			}
			f, ok := ac.Next(vpntest.Patience, toward)
			require.True(t, ok)
			require.Empty(t, f.Stack)
			require.Equal(t, uint8(ingress-1), f.TTL, "popping the VPN label and forwarding in the VRF cost one hop together")
		})
	}
}

func attachment(v *topo.VPCPlan, site string) topo.Attachment {
	i := slices.IndexFunc(v.Attachments, func(a topo.Attachment) bool { return a.Site == site })
	return v.Attachments[i]
}

// lspHops walks the LSP from one PE to another.
func lspHops(t *testing.T, plan *topo.Plan, from, to string) []topo.LSPHop {
	lsp, ok := plan.LSP(to)
	require.True(t, ok)
	path, err := plan.Path(from, to)
	require.NoError(t, err)
	var hops []topo.LSPHop
	for _, node := range path[:len(path)-1] {
		i := slices.IndexFunc(lsp.Hops, func(h topo.LSPHop) bool { return h.Node == node })
		hops = append(hops, lsp.Hops[i])
	}
	return hops
}

// traceroute is what package mpls promises: CE, ingress PE, silence for each
// P router, the host.
func traceroute(t *testing.T, l *vpntest.Lab) {
	var seen []string
	to := address(l, "red", "s2")
	for ttl := 1; ttl <= 8; ttl++ {
		r := l.Ask(vpntest.Question{From: name(l, "red", "s1"), To: to, TTL: ttl, Wait: time.Second})
		switch {
		case r.Name != "":
			seen = append(seen, "host")
		case r.ICMP == "type 11 code 0":
			seen = append(seen, owner(l.Plan, r.By))
		default:
			seen = append(seen, "*")
		}
		if r.Name != "" {
			break
		}
	}
	t.Log(seen)
	require.Equal(t, []string{"red-s1-ce", "pe1", "*", "*", "host"}, seen)
}

// owner names the node of an address, as seen from red's site 1.
func owner(plan *topo.Plan, a netip.Addr) string {
	for _, n := range plan.Nodes {
		if n.VPC == "blue" {
			continue
		}
		for _, b := range n.Bridges {
			if b.Addr.Addr() == a {
				return n.Name
			}
		}
	}
	for _, k := range plan.Links {
		for _, e := range []topo.Endpoint{k.A, k.B} {
			if e.Addr.Addr() == a && k.VPC != "blue" {
				return e.Node
			}
		}
	}
	return a.String()
}

// fullSize: 1500 bytes that must not be fragmented, two labels on top, and
// the same back.
func fullSize(t *testing.T, l *vpntest.Lab) {
	got := l.Ask(vpntest.Question{From: name(l, "red", "s1"), To: address(l, "red", "s2"), Size: 1500, DF: true})
	require.Equal(t, vpntest.Reply{Name: name(l, "red", "s2"), Size: 1500}, got)
}

// coreOutOfReach: every address of the PE but the circuit's own.
func coreOutOfReach(t *testing.T, l *vpntest.Lab) {
	pe, _ := l.Plan.Node("pe1")
	core := []netip.Addr{pe.Loopback}
	for _, k := range l.Plan.LinksOf("pe1") {
		if k.Core {
			core = append(core, k.A.Addr.Addr(), k.B.Addr.Addr())
		}
	}
	far, _ := l.Plan.Node("pe2")
	core = append(core, far.Loopback)
	from := name(l, "red", "s1")
	v, _ := l.Plan.VPC("red")
	require.True(t, l.Ping(from, attachment(v, "s1").PEAddr.Addr(), vpntest.Patience), "the circuit's own address answers")
	for _, a := range core {
		require.False(t, l.Ping(from, a, vpntest.Silence), "a tenant reached %s", a)
	}
	// With the kernel's own order of rules it does.
	l.In("pe1", func() error { return netlink.RuleAdd(localRule()) })
	defer l.In("pe1", func() error { return netlink.RuleDel(localRule()) })
	require.True(t, l.Ping(from, pe.Loopback, vpntest.Patience), "the rules are not what kept the tenant out")
}

func localRule() *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.Table, r.Family = 0, unix.RT_TABLE_LOCAL, unix.AF_INET
	return r
}

// noLeak: an address that the VRF does not know, but the PE's main table
// does.
func noLeak(t *testing.T, l *vpntest.Lab) {
	far, _ := l.Plan.Node("pe2")
	from := name(l, "blue", "s1")
	v, _ := l.Plan.VPC("blue")
	vrf, _ := v.VRF("pe1")
	core := l.Tap("pe1", "p1")
	leaked := func(f vpntest.Frame) bool { return f.Out && f.Dst == far.Loopback && f.Proto == unix.IPPROTO_UDP }

	r := l.Ask(vpntest.Question{From: from, To: far.Loopback})
	require.Equal(t, "type 3 code 1", r.ICMP, "want ICMP host unreachable: %+v", r)
	require.Equal(t, "pe1", owner(l.Plan.Restrict(func(a topo.Attachment) bool { return a.VPC == "red" }), r.By))
	_, ok := core.Next(vpntest.Silence, leaked)
	require.False(t, ok, "a tenant's packet left unlabelled on the core")

	// Without the unreachable default it does leave.
	def := &netlink.Route{Table: vrf.Table, Type: unix.RTN_UNREACHABLE, Priority: 4278198272, Dst: anywhere()}
	l.In("pe1", func() error { return netlink.RouteDel(def) })
	l.Ask(vpntest.Question{From: from, To: far.Loopback, Wait: vpntest.Silence})
	f, ok := core.Next(vpntest.Patience, leaked)
	l.In("pe1", func() error { return netlink.RouteAdd(def) })
	require.True(t, ok, "the unreachable default is not what stopped the packet")
	require.Empty(t, f.Stack)
}

// forgedLabel: red's CE at site 1 sends a frame with blue's VPN label.
func forgedLabel(t *testing.T, l *vpntest.Lab) {
	v, _ := l.Plan.VPC("red")
	a := attachment(v, "s1")
	blue, _ := l.Plan.VPC("blue")
	label, _ := blue.VRF("pe1")
	var peMAC [6]byte
	for _, k := range l.Plan.LinksOf(a.PE) {
		if k.AC && k.A.Ifname == a.PEIf {
			peMAC = k.A.MAC
		}
	}
	ce := l.Tap(a.CE, "wan")
	victim := name(l, "blue", "s1")
	victimIf := l.Tap(victim, "eth0")
	src, to := netip.MustParseAddr("192.0.2.7"), address(l, "blue", "s1")
	forged := func(f vpntest.Frame) bool { return f.Src == src }

	ce.Send(peMAC, []uint32{label.Label}, src, to)
	_, ok := victimIf.Next(vpntest.Silence, forged)
	require.False(t, ok, "a tenant's frame with another tenant's label was delivered")

	// An open circuit delivers it.
	file := "/proc/sys/net/mpls/conf/" + a.PEIf + "/input"
	l.In(a.PE, func() error { return os.WriteFile(file, []byte("1"), 0o644) })
	defer l.In(a.PE, func() error { return os.WriteFile(file, []byte("0"), 0o644) })
	ce.Send(peMAC, []uint32{label.Label}, src, to)
	_, ok = victimIf.Next(vpntest.Patience, forged)
	require.True(t, ok, "mpls input=0 is not what stopped the frame")
}

// strictMode: a second VRF on a table in use is refused.
func strictMode(t *testing.T, l *vpntest.Lab) {
	for _, pe := range []string{"pe1", "pe2", "pe3"} {
		require.Equal(t, "1", sysctl(t, l, pe, "net/vrf/strict_mode"))
	}
	err := l.Do("pe1", func() error {
		return netlink.LinkAdd(&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "second"}, Table: 1001})
	})
	require.Error(t, err, "two VRFs share table 1001")
}

func sysctl(t *testing.T, l *vpntest.Lab, node, key string) string {
	var b []byte
	l.In(node, func() (err error) {
		b, err = os.ReadFile("/proc/sys/" + key)
		return err
	})
	return strings.TrimSpace(string(b))
}

func labelTable(t *testing.T, l *vpntest.Lab) {
	last := l.Plan.MaxLabel()
	for _, n := range []string{"pe1", "p1"} {
		require.Equal(t, strconv.Itoa(int(last)+1), sysctl(t, l, n, "net/mpls/platform_labels"))
	}
	add := func(label int) error {
		return l.Do("p1", func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{MPLSDst: &label, LinkIndex: lo.Attrs().Index})
		})
	}
	require.ErrorIs(t, add(int(last)+1), unix.EINVAL)
	// Only core ends take labels in.
	for _, k := range l.Plan.Links {
		for _, e := range []topo.Endpoint{k.A, k.B} {
			n, _ := l.Plan.Node(e.Node)
			if n.Kind != topo.KindPE && n.Kind != topo.KindP {
				continue
			}
			other := k.A.Node
			if other == e.Node {
				other = k.B.Node
			}
			want := "0"
			if o, _ := l.Plan.Node(other); o.Kind == topo.KindPE || o.Kind == topo.KindP {
				want = "1"
			}
			require.Equal(t, want, sysctl(t, l, e.Node, "net/mpls/conf/"+e.Ifname+"/input"), "%s:%s", e.Node, e.Ifname)
		}
	}
}

// reversePath: what the machine sets must not reach the routers.
func reversePath(t *testing.T, l *vpntest.Lab) {
	for _, n := range []string{"pe1", "p1", "rr"} {
		require.Equal(t, "0", sysctl(t, l, n, "net/ipv4/conf/all/rp_filter"))
		for _, k := range l.Plan.LinksOf(n) {
			ifname := k.A.Ifname
			if k.B.Node == n {
				ifname = k.B.Ifname
			}
			require.Equal(t, "0", sysctl(t, l, n, "net/ipv4/conf/"+ifname+"/rp_filter"), "%s:%s", n, ifname)
		}
	}
	a, _ := l.Plan.Node("rr")
	require.True(t, l.Ping("pe3", a.Loopback, vpntest.Patience), "a PE reaches the reflector's loopback")
}

// asksInItsOwnName sends a packet that looks, below two labels and below one,
// as if it came from 127.0.0.0/8, over links on which nobody knows the other's
// MAC yet.
func asksInItsOwnName(t *testing.T, l *vpntest.Lab) {
	v, _ := l.Plan.VPC("red")
	a := attachment(v, "s1")
	src, _ := l.Plan.Node(a.Machines[0])
	to, victim := address(l, "red", "s2"), l.Tap(name(l, "red", "s2"), "eth0")
	const lookalike = 0x7f09 // the identification; the first byte is 127
	arrives := func(wait time.Duration) bool {
		for _, n := range l.Plan.Nodes {
			if n.Kind == topo.KindPE || n.Kind == topo.KindP {
				l.In(n.Name, func() error { return forgetNeighbours() })
			}
		}
		l.In(src.Name, func() error { return sendIP(src.Addr, to, lookalike, 2+127) }) // the CE and the PE take one each
		_, ok := victim.Next(wait, func(f vpntest.Frame) bool { return !f.Out && f.Src == src.Addr && f.Proto == unix.IPPROTO_UDP })
		return ok
	}
	require.True(t, arrives(vpntest.Patience))
	all := "/proc/sys/net/ipv4/conf/all/arp_announce"
	l.In(a.PE, func() error { return os.WriteFile(all, []byte("0"), 0o644) })
	defer l.In(a.PE, func() error { return os.WriteFile(all, []byte("2"), 0o644) })
	require.False(t, arrives(vpntest.Silence), "arp_announce is not what lets it through: this kernel does not need it")
}

// forgetNeighbours empties the namespace's ARP tables.
func forgetNeighbours() error {
	entries, err := netlink.NeighList(0, netlink.FAMILY_V4)
	for i := range entries {
		err = errors.Join(err, netlink.NeighDel(&entries[i]))
	}
	return err
}

// sendIP sends an empty UDP datagram in a packet with that identification, not
// to be fragmented.
func sendIP(src, dst netip.Addr, id uint16, ttl byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	p := []byte{0x45, 0, 0, 28, byte(id >> 8), byte(id), 0x40, 0, ttl, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	p = append(p, 0x10, 0xe1, 0x10, 0xe1, 0, 8, 0, 0) // port 4321 both ways, no checksum
	return unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: dst.As4()})
}

func readBack(t *testing.T, l *vpntest.Lab) {
	pe1, err := mpls.Read(l.NSPath("pe1"))
	require.NoError(t, err)
	red, _ := l.Plan.VPC("red")
	blue, _ := l.Plan.VPC("blue")
	redHere, _ := red.VRF("pe1")
	blueHere, _ := blue.VRF("pe1")
	redAt2, _ := red.VRF("pe2")
	hop := lspHops(t, l.Plan, "pe1", "pe2")[0]
	require.Contains(t, pe1.Labels, mpls.Label{In: redHere.Label, Action: "pop", Dev: redHere.Name})
	require.Contains(t, pe1.Labels, mpls.Label{In: blueHere.Label, Action: "pop", Dev: blueHere.Name})
	require.Len(t, pe1.VRFs, 2)
	vrf := pe1.VRFs[0]
	require.Equal(t, redHere.Name, vrf.Name)
	require.Equal(t, []string{attachment(red, "s1").PEIf}, vrf.Ports)
	at := func(prefix string) mpls.Route {
		for _, r := range vrf.Routes {
			if r.Prefix == prefix {
				return r
			}
		}
		t.Fatalf("no route to %s in %+v", prefix, vrf.Routes)
		return mpls.Route{}
	}
	remote := at("10.0.2.0/24")
	require.Equal(t, []uint32{hop.OutLabel, redAt2.Label}, remote.Labels)
	require.Equal(t, hop.Via.String(), remote.Via)
	require.Equal(t, hop.Dev, remote.Dev)
	local := at("10.0.1.0/24")
	require.Equal(t, attachment(red, "s1").CEAddr.String(), local.Via)
	require.Empty(t, local.Labels)
	require.Equal(t, "unreachable", at("default").Type)

	p1, err := mpls.Read(l.NSPath("p1"))
	require.NoError(t, err)
	require.Empty(t, p1.VRFs)
	hops := lspHops(t, l.Plan, "pe1", "pe2")
	require.Contains(t, p1.Labels, mpls.Label{In: hops[1].InLabel, Action: "swap", Out: []uint32{hops[1].OutLabel}, Via: hops[1].Via.String(), Dev: hops[1].Dev})
	p2, err := mpls.Read(l.NSPath("p2"))
	require.NoError(t, err)
	require.Contains(t, p2.Labels, mpls.Label{In: hops[2].InLabel, Action: "pop", Via: hops[2].Via.String(), Dev: hops[2].Dev})
}

// TestSmallCoreMTU: where the core carries 1500 bytes only, the PE tells the
// sender what fits under two labels; nothing is lost in silence.
func TestSmallCoreMTU(t *testing.T) {
	kerneltest.Need(t)
	plan := vpntest.Plan(t, "mtu", 1500)
	l := vpntest.New(t, plan, nil)
	l.Converge(vpntest.WithVPNRoutes(plan, vpntest.State(plan)))
	l.Answer()
	q := vpntest.Question{From: name(l, "red", "s1"), To: address(l, "red", "s2"), Size: 1500, DF: true}
	r := l.Ask(q)
	require.Equal(t, "type 3 code 4", r.ICMP, "%+v", r)
	require.Equal(t, 1492, r.MTU)
	require.Equal(t, "pe1", owner(plan, r.By))
	q.Size = 1492
	require.Equal(t, name(l, "red", "s2"), l.Ask(q).Name)
}

// TestConvergingLeavesVPNRoutesAlone: the speakers' routes are not the
// fabric's business; a second Apply of the same plan must not remove them.
func TestConvergingLeavesVPNRoutesAlone(t *testing.T) {
	kerneltest.Need(t)
	plan := vpntest.Plan(t, "keep", vpntest.CoreMTU)
	l := vpntest.New(t, plan, nil)
	red, _ := plan.VPC("red")
	vrf, _ := red.VRF("pe1")
	hop := lspHops(t, plan, "pe1", "pe2")[0]
	l.In("pe1", func() error {
		dev, err := netlink.LinkByName(hop.Dev)
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Table: vrf.Table, Dst: ipnet("10.0.2.0/24"), LinkIndex: dev.Attrs().Index,
			Gw: hop.Via.AsSlice(), Encap: &netlink.MPLSEncap{Labels: []int{int(hop.OutLabel), 20102}}, Protocol: unix.RTPROT_BGP})
	})
	l.Converge(vpntest.State(plan))
	got, err := mpls.Read(l.NSPath("pe1"))
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(got.VRFs[0].Routes, func(r mpls.Route) bool { return r.Proto == "bgp" && r.Prefix == "10.0.2.0/24" }), fmt.Sprintf("%+v", got.VRFs[0]))
}

func ipnet(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

func anywhere() *net.IPNet { return ipnet("0.0.0.0/0") }
