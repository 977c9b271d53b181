package bgp_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/mpls/vpntest"
	"github.com/vpclab/vpclab/topo"
)

// lanNetwork has two VPLS with the same subnet beside an l3vpn, on the routers
// of vpntest's network. p1 has two ways to pe2, so that a reservation can take
// the longer one.
//
//	s1 -- pe1 -- p1 -- p2 -- pe2 -- s2
//	             |      |     |
//	             |     pe3 -- s3
//	             +---- p3 ----+
const lanNetwork = `
name: %s
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2, p3]
    mtu: 1600
    links:
      - {between: [pe1, p1]}
      - {between: [p1, p2]}
      - {between: [p2, pe2]}
      - {between: [p2, pe3]}
      - {between: [p1, p3], cost: 50}
      - {between: [p3, pe2], cost: 50}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 2}
    s2: {kind: enterprise, pe: pe2, machines: 2}
    s3: {kind: enterprise, pe: pe3, machines: 2}
vpcs:
  lan: {service: vpls, subnet: 10.7.0.0/24, sites: [s1, s2, s3], ipv6: true}
  twin: {service: vpls, subnet: 10.7.0.0/24, sites: [s1, s2]}
  red: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24}}
reservations:
  gold: {vpc: lan, between: [lan-s1-1, lan-s2-1], rate: 10mbit, path: [pe1, p1, p3, pe2]}
`

// lanLab is that network with its speakers.
type lanLab struct {
	*network
	lan []*vpntest.Station // two at each site
}

func newLANLab(t *testing.T, name string) *lanLab {
	kerneltest.Need(t)
	text := fmt.Sprintf(lanNetwork, name)
	l := &lanLab{network: newNetwork(t, vpntest.Expand(t, text))}
	l.lan = l.Stations("lan")
	require.Len(t, l.lan, 6)
	return l
}

// at is machine m (1 or 2) of lan at a site.
func (l *lanLab) at(site string, m int) *vpntest.Station {
	for _, s := range l.lan {
		if s.Site == site {
			if m--; m == 0 {
				return s
			}
		}
	}
	l.t.Fatalf("no machine %d of lan at %s", m, site)
	return nil
}

// spoken reads what a netlink dump of pe's namespace says.
func spoken[T any](l *lanLab, pe string, read func(*rtnl.Conn) (T, error)) (out T) {
	l.t.Helper()
	l.In(pe, func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		out, err = read(conn)
		return err
	})
	return out
}

// ports are the bridge ports that pe's speaker made, by name.
func (l *lanLab) ports(pe string) map[string]rtnl.LinkInfo {
	out := map[string]rtnl.LinkInfo{}
	for _, k := range spoken(l, pe, (*rtnl.Conn).Links) {
		if k.Group == rtnl.GroupSpeaker {
			out[k.Name] = k
		}
	}
	return out
}

// left is all that a speaker has in pe's kernel for pseudowires.
func (l *lanLab) left(pe string) (all []string) {
	for name := range l.ports(pe) {
		all = append(all, name)
	}
	for _, r := range spoken(l, pe, func(c *rtnl.Conn) ([]rtnl.MPLSRoute, error) { return c.MPLSRoutes(rtnl.ProtocolBGP) }) {
		all = append(all, "label "+strconv.Itoa(int(r.In)))
	}
	for _, f := range spoken(l, pe, func(c *rtnl.Conn) ([]rtnl.Filter, error) { return c.Filters(mpls.PseudowireBlock, 0, 0) }) {
		all = append(all, "filter "+strconv.Itoa(int(f.Flower.Label)))
	}
	sort.Strings(all)
	return all
}

// sent is a frame to put on a machine's wire, and who is to get it.
type sent struct {
	from    *vpntest.Station
	dst     [6]byte
	reached func(*vpntest.Station) bool
}

func everybody(*vpntest.Station) bool { return true }

// but is everybody but those of a site.
func but(site string) func(*vpntest.Station) bool {
	return func(s *vpntest.Station) bool { return s.Site != site }
}

var broadcast = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// once sends frames and sees that every other machine of lan that is to get
// one gets it exactly once, and nobody else at all.
func (l *lanLab) once(frames ...sent) {
	l.t.Helper()
	want := map[*vpntest.Station]map[string]int{}
	var texts []string
	for i, f := range frames {
		text := fmt.Sprintf("%d %s %x %d", i, f.from.Name, f.dst, event.Now())
		texts = append(texts, text)
		f.from.Put(vpntest.Marked(f.dst, f.from.MAC, text))
		for _, s := range l.lan {
			if want[s] == nil {
				want[s] = map[string]int{}
			}
			if s != f.from && f.reached(s) {
				want[s][text] = 1
			}
		}
	}
	got := map[*vpntest.Station]map[string]int{}
	old := func(text string, _ int) bool { return !slices.Contains(texts, text) } // of earlier tests
	for _, s := range l.lan {
		got[s] = map[string]int{}
		s.Tally(got[s], vpntest.Patience, func() bool {
			maps.DeleteFunc(got[s], old)
			return len(got[s]) >= len(want[s])
		})
	}
	quiet := time.Now().Add(vpntest.Silence)
	for _, s := range l.lan {
		s.Tally(got[s], max(time.Until(quiet), time.Millisecond), func() bool { return false })
		maps.DeleteFunc(got[s], old)
		require.Equal(l.t, want[s], got[s], "what %s hears", s.Name)
	}
}

// mesh says that each machine of lan hears the broadcasts of every other.
func (l *lanLab) mesh() {
	l.t.Helper()
	l.once(sent{l.at("s1", 1), broadcast, everybody}, sent{l.at("s2", 1), broadcast, everybody}, sent{l.at("s3", 1), broadcast, everybody})
}

// answered asks by UDP, which takes ARP too.
func (l *lanLab) answered(from, to *vpntest.Station, q vpntest.Question) {
	l.t.Helper()
	q.From, q.To = from.Name, to.Addr
	got := l.Ask(q)
	require.Equal(l.t, to.Name, got.Name, "%s asks %s: %+v", from.Name, to.Name, got)
}

// behind is the device of pe's bridge behind which a MAC was learned; "" for
// none.
func (l *lanLab) behind(pe, bridge string, mac topo.MAC) string {
	names, master := map[int]string{}, 0
	for _, k := range spoken(l, pe, (*rtnl.Conn).Links) {
		names[k.Index] = k.Name
		if k.Name == bridge {
			master = k.Index
		}
	}
	for _, e := range spoken(l, pe, (*rtnl.Conn).FDB) {
		if e.Bridge == master && topo.MAC(e.MAC) == mac && !e.Local {
			return names[e.Port]
		}
	}
	return ""
}

// port is the name of pe's pseudowire of lan to another PE.
func (l *lanLab) port(pe, to string) string {
	v, _ := l.Plan.VPC("lan")
	var label uint32
	for _, s := range v.VSIs {
		for _, o := range v.VSIs {
			if s.PE == pe && o.PE == to {
				label = s.LabelBase + uint32(o.VEID-s.BlockOffset)
			}
		}
	}
	return "pw" + strconv.FormatUint(uint64(label), 10)
}

func TestVPLS(t *testing.T) {
	l := newLANLab(t, "vpls")
	// Subtests put the network back as they found it.
	t.Run("what is in the kernel", func(t *testing.T) { l.inKernel(t) })
	t.Run("every frame once", func(t *testing.T) { l.frames(t) })
	t.Run("addresses by ARP and ND", func(t *testing.T) { l.addresses(t) })
	t.Run("labels on the wire", func(t *testing.T) { l.labels(t) })
	t.Run("full-size packets", func(t *testing.T) { l.fullSize(t) })
	t.Run("tenants apart", func(t *testing.T) { l.apart(t) })
	t.Run("reserved traffic", func(t *testing.T) { l.reserved(t) })
	t.Run("learning and moving", func(t *testing.T) { l.moves(t) })
	t.Run("fabric converges beside the speakers", func(t *testing.T) {
		before := l.left("pe1")
		l.Converge(vpntest.State(l.Plan))
		require.Equal(t, before, l.left("pe1"))
		l.mesh()
	})
	t.Run("detach and attach a site", func(t *testing.T) { l.detach(t) })
	t.Run("MTU mismatch", func(t *testing.T) { l.mtu(t) })
	t.Run("core link down and up", func(t *testing.T) { l.flap(t) })
	t.Run("core link removed and made again", func(t *testing.T) { l.relink(t) })
	t.Run("bridge removed and made again", func(t *testing.T) { l.rebridge(t) })
	t.Run("port removed", func(t *testing.T) { l.unplug(t) })
	t.Run("kill and come back", func(t *testing.T) { l.kill(t) })
	t.Run("stop removes all", func(t *testing.T) { l.stop(t) })
}

func (l *lanLab) inKernel(t *testing.T) {
	ports := l.ports("pe1")
	require.Len(t, ports, 6, "two pseudowires of lan and one of twin, two ends each")
	links := spoken(l, "pe1", (*rtnl.Conn).Links)
	bridge := links[slices.IndexFunc(links, func(k rtnl.LinkInfo) bool { return k.Name == "vsi-lan" })]
	for _, to := range []string{"pe2", "pe3"} {
		p := ports[l.port("pe1", to)]
		require.True(t, p.Isolated && p.Up && p.Port == rtnl.PortForwarding && p.Master == bridge.Index && p.MTU == 1500, "%+v", p)
		require.GreaterOrEqual(t, p.Index, rtnl.FirstSpeakerIndex)
	}
	require.NotContains(t, l.left("pe3"), "pw20201", "twin is not at pe3")
	t.Log(l.left("pe1"))
}

// frames: broadcast, multicast and unknown addresses go everywhere once, a
// known one to its place alone. Three PEs in a full mesh without split horizon
// would send a broadcast round for ever.
func (l *lanLab) frames(t *testing.T) {
	l.mesh()
	to := l.at("s3", 1)
	l.once(sent{l.at("s1", 2), [6]byte{0x01, 0x00, 0x5e, 0, 0, 251}, everybody},
		sent{l.at("s2", 2), [6]byte{0x33, 0x33, 0, 0, 0, 1}, everybody},
		sent{l.at("s3", 2), [6]byte{2, 0, 0, 0, 0, 0x99}, everybody},
		sent{l.at("s1", 1), to.MAC, func(s *vpntest.Station) bool { return s == to }})
}

func (l *lanLab) addresses(t *testing.T) {
	for _, from := range l.lan {
		for _, to := range l.lan {
			if from != to {
				l.answered(from, to, vpntest.Question{})
			}
		}
	}
	from, to := l.at("s1", 1), l.at("s2", 2)
	ll := linkLocal(to.MAC)
	l.In(from.Name, func() error {
		out, err := exec.Command("ping", "-6", "-c", "1", "-W", "3", ll.WithZone(from.Ifname).String()).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ping %s: %w: %s", ll, err, out)
		}
		return nil
	})
}

// linkLocal is the address that a kernel makes of a MAC (RFC 4291 appendix A).
func linkLocal(m topo.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// labels: the LSP's label above what the egress gave out for the ingress; the
// kernel pushes with 255, and each router after that takes one.
func (l *lanLab) labels(t *testing.T) {
	v, _ := l.Plan.VPC("lan")
	egress := v.VSIs[slices.IndexFunc(v.VSIs, func(s topo.VSI) bool { return s.PE == "pe2" })]
	pw := egress.LabelBase + uint32(1-egress.BlockOffset)
	from, to := l.at("s1", 2), l.at("s2", 2)
	lsp, _ := l.Plan.LSP("pe2")
	var wires []*vpntest.Wire
	var want [][]vpntest.LSE
	for i, node := range []string{"pe1", "p1", "p2"} {
		h := lsp.Hops[slices.IndexFunc(lsp.Hops, func(h topo.LSPHop) bool { return h.Node == node })]
		wires = append(wires, l.Tap(node, h.Dev))
		bottom := vpntest.LSE{Label: pw, Bottom: true, TTL: 254}
		if h.OutLabel == 0 {
			want = append(want, []vpntest.LSE{bottom})
		} else {
			want = append(want, []vpntest.LSE{{Label: h.OutLabel, TTL: uint8(254 - i)}, bottom})
		}
	}
	text := fmt.Sprint("labels ", event.Now())
	from.Put(vpntest.Marked(to.MAC, from.MAC, text))
	for i, w := range wires {
		f, ok := w.Next(vpntest.Patience, func(f vpntest.Frame) bool { return f.Out && f.Text == text })
		require.True(t, ok, "hop %d", i)
		t.Log(f.Stack)
		require.Equal(t, want[i], f.Stack)
		require.True(t, f.Inner)
		require.Equal(t, to.MAC, topo.MAC(f.To))
		require.Equal(t, from.MAC, topo.MAC(f.From))
	}
}

func (l *lanLab) fullSize(t *testing.T) {
	from, to := l.at("s1", 1), l.at("s2", 2)
	require.Equal(t, vpntest.Reply{Name: to.Name, Size: 1500}, l.Ask(vpntest.Question{From: from.Name, To: to.Addr, Size: 1500, DF: true}))
}

// apart: twin has lan's addresses and is another Ethernet.
func (l *lanLab) apart(t *testing.T) {
	twins := l.Stations("twin")
	require.Equal(t, l.at("s1", 1).Addr, twins[0].Addr)
	text := fmt.Sprint("apart ", event.Now())
	twins[0].Put(vpntest.Marked(broadcast, twins[0].MAC, text))
	heard := 0
	for _, s := range twins[1:] {
		heard += s.Heard(text, vpntest.Patience, 1)
	}
	require.Equal(t, len(twins)-1, heard)
	for _, s := range l.lan {
		require.Zero(t, s.Heard(text, 50*time.Millisecond, 1), "%s hears a stranger", s.Name)
	}
	text = fmt.Sprint("together ", event.Now())
	l.at("s1", 1).Put(vpntest.Marked(broadcast, l.at("s1", 1).MAC, text))
	for _, s := range twins {
		require.Zero(t, s.Heard(text, 50*time.Millisecond, 1), "%s hears a stranger", s.Name)
	}
	require.Equal(t, twins[2].Name, l.Ask(vpntest.Question{From: twins[0].Name, To: twins[2].Addr}).Name)
}

// reserved: the two machines of a reservation have labels of their own, and by
// the way that was asked for; everybody else has the pseudowire's.
func (l *lanLab) reserved(t *testing.T) {
	r := l.Plan.Reservations[0]
	require.Len(t, r.Directions, 2)
	there, back := r.Directions[0], r.Directions[1]
	short, long := l.Tap("p2", devTo(t, l.Plan, "p2", "pe2")), l.Tap("p3", devTo(t, l.Plan, "p3", "pe2"))
	gold, other, to := l.at("s1", 1), l.at("s1", 2), l.at("s2", 1)

	send := func(from, to *vpntest.Station, on *vpntest.Wire, out bool) vpntest.Frame {
		t.Helper()
		text := fmt.Sprint("gold ", event.Now())
		from.Put(vpntest.Marked(to.MAC, from.MAC, text))
		f, ok := on.Next(vpntest.Patience, func(f vpntest.Frame) bool { return f.Out == out && f.Text == text })
		require.True(t, ok, "from %s to %s", from.Name, to.Name)
		require.Equal(t, 1, to.Heard(text, vpntest.Patience, 1))
		t.Logf("%s to %s: %v", from.Name, to.Name, f.Stack)
		return f
	}
	f := send(gold, to, long, true)
	require.Equal(t, []vpntest.LSE{{Label: there.Label, Bottom: true, TTL: 254}}, f.Stack, "the label of the pseudowire's place, every adjacency popped")
	f = send(other, to, short, true)
	require.NotEqual(t, there.Label, f.Stack[0].Label)
	f = send(to, gold, long, false)
	require.Equal(t, back.Label, f.Stack[len(f.Stack)-1].Label)

	// The flow goes and comes by itself.
	full := l.configs["pe1"]
	less := full
	less.VSIs = slices.Clone(full.VSIs)
	less.VSIs[0].Flows = nil
	m := l.Mark()
	l.configs["pe1"] = less
	l.configure("pe1")
	l.Wait(t, m, "pe1", "flow.down", "flow=gold")
	send(gold, to, short, true)
	require.NotContains(t, l.left("pe1"), "label "+strconv.Itoa(int(there.Label)))
	require.NotContains(t, l.left("pe1"), "filter "+strconv.Itoa(int(back.Label)))
	l.configs["pe1"] = full
	l.configure("pe1")
	l.Wait(t, m, "pe1", "flow.up", "flow=gold")
	send(gold, to, long, true)
}

// devTo is the interface of a router towards another.
func devTo(t *testing.T, plan *topo.Plan, node, next string) string {
	t.Helper()
	for _, k := range plan.Links {
		for _, e := range [][2]topo.Endpoint{{k.A, k.B}, {k.B, k.A}} {
			if e[0].Node == node && e[1].Node == next {
				return e[0].Ifname
			}
		}
	}
	t.Fatalf("no link from %s to %s", node, next)
	return ""
}

// moves: a MAC is behind the pseudowire by which it speaks; when it speaks
// somewhere else, it is there.
func (l *lanLab) moves(t *testing.T) {
	shop := l.at("s2", 2)
	l.once(sent{shop, broadcast, everybody})
	require.Equal(t, l.port("pe1", "pe2"), l.behind("pe1", "vsi-lan", shop.MAC))
	require.Equal(t, l.port("pe3", "pe2"), l.behind("pe3", "vsi-lan", shop.MAC))
	require.NotContains(t, l.behind("pe2", "vsi-lan", shop.MAC), "pw")

	// The same machine at site 3: a gratuitous ARP from there.
	there := l.at("s3", 2)
	for _, c := range []struct{ site, pe string }{{"s3", "pe3"}, {"s2", "pe2"}} {
		text := fmt.Sprint("follow to ", c.site, event.Now())
		began := event.Now()
		there.Put(vpntest.GratuitousARP(shop.MAC, shop.Addr))
		there.Put(vpntest.Marked(broadcast, shop.MAC, text)) // behind the ARP on all wires
		for _, s := range l.lan {
			if s != there {
				require.Equal(t, 1, s.Heard(text, vpntest.Patience, 1), s.Name)
			}
		}
		t.Logf("moved to %s and heard everywhere %v later", c.site, event.Now().Sub(began))
		require.Equal(t, l.port("pe1", c.pe), l.behind("pe1", "vsi-lan", shop.MAC))
		text = fmt.Sprint("found at ", c.site, event.Now())
		l.at("s1", 1).Put(vpntest.Marked(shop.MAC, l.at("s1", 1).MAC, text))
		require.Equal(t, 1, there.Heard(text, vpntest.Patience, 1), "%s at its new place", shop.Name)
		require.Zero(t, l.at("s1", 2).Heard(text, 50*time.Millisecond, 1), "flooded")
		there = shop // and back again
	}
}

// detach takes lan's site 3 off its PE: plan, fabric and speakers, in the
// order of a deploy.
func (l *lanLab) detach(t *testing.T) {
	full := l.Plan
	gone := full.Detach(func(a topo.Attachment) bool { return a.VPC == "lan" && a.Site == "s3" })
	m := l.Mark()
	l.configs = bgp.Configs(gone)
	l.configureAll()
	l.Wait(t, m, "pe1", "pw.down", "vsi=vsi-lan", "ve=3")
	l.Wait(t, m, "pe2", "pw.down", "vsi=vsi-lan", "ve=3")
	require.Empty(t, l.left("pe3"), "what is on a bridge that goes must go before it")
	require.Len(t, l.ports("pe1"), 4)
	l.Converge(vpntest.State(gone))
	l.once(sent{l.at("s1", 1), broadcast, but("s3")})

	m = l.Mark()
	began := event.Now()
	l.Converge(vpntest.State(full))
	l.configs = bgp.Configs(full)
	l.configureAll()
	var last event.Mono
	for _, w := range []string{"pe1 3", "pe2 3", "pe3 1", "pe3 2"} {
		pe, ve, _ := strings.Cut(w, " ")
		last = max(last, l.Wait(t, m, pe, "pw.up", "vsi=vsi-lan", "ve="+ve).T)
	}
	t.Logf("joined %v after the request, fabric included", last.Sub(began))
	l.mesh()
}

func (l *lanLab) mtu(t *testing.T) {
	full := l.configs["pe3"]
	other := full
	other.VSIs = slices.Clone(full.VSIs)
	other.VSIs[0].MTU = 1400
	m := l.Mark()
	l.configs["pe3"] = other
	l.configure("pe3")
	l.Wait(t, m, "pe1", "pw.failed", "ve=3", "error=VE 3 at "+loopback(l.Plan, "pe3").String()+": its MTU is 1400, ours 1500")
	l.Wait(t, m, "pe1", "pw.down", "ve=3")
	l.Wait(t, m, "pe2", "pw.down", "ve=3")
	l.once(sent{l.at("s1", 1), broadcast, but("s3")})
	m = l.Mark()
	l.configs["pe3"] = full
	l.configure("pe3")
	l.Wait(t, m, "pe1", "pw.up", "ve=3")
	l.Wait(t, m, "pe2", "pw.up", "ve=3")
	l.Wait(t, m, "pe3", "pw.up", "ve=1")
	l.Wait(t, m, "pe3", "pw.up", "ve=2")
	l.mesh()
}

// flap: the way through a link is set again when the link is back.
func (l *lanLab) flap(t *testing.T) {
	m := l.Mark()
	var dev netlink.Link
	l.In("pe1", func() (err error) {
		if dev, err = netlink.LinkByName(devTo(t, l.Plan, "pe1", "p1")); err != nil {
			return err
		}
		return netlink.LinkSetDown(dev)
	})
	text := fmt.Sprint("down ", event.Now())
	l.at("s1", 1).Put(vpntest.Marked(broadcast, l.at("s1", 1).MAC, text))
	require.Zero(t, l.at("s2", 1).Heard(text, vpntest.Silence, 1))
	l.In("pe1", func() error { return netlink.LinkSetUp(dev) })
	l.Wait(t, m, "pe1", "pw.up", "vsi=vsi-lan", "ve=2")
	l.Wait(t, m, "pe1", "pw.up", "vsi=vsi-lan", "ve=3")
	l.Wait(t, m, "pe1", "flow.up", "flow=gold")
	l.Converge(vpntest.State(l.Plan)) // the core's own routes are the fabric's
	l.mesh()
}

// relink: with its one core link pe1 loses the labels and the filters behind
// it; the speaker sets both when there is a link again.
func (l *lanLab) relink(t *testing.T) {
	m := l.Mark()
	l.In("pe1", func() error {
		dev, err := netlink.LinkByName(devTo(t, l.Plan, "pe1", "p1"))
		if err != nil {
			return err
		}
		return netlink.LinkDel(dev)
	})
	require.NotContains(t, strings.Join(l.left("pe1"), " "), "filter")
	l.Converge(vpntest.State(l.Plan))
	l.Wait(t, m, "pe1", "pw.up", "vsi=vsi-lan", "ve=2")
	l.Wait(t, m, "pe1", "pw.up", "vsi=vsi-lan", "ve=3")
	l.Wait(t, m, "pe1", "pw.up", "vsi=vsi-twin", "ve=2")
	l.Wait(t, m, "pe1", "flow.up", "flow=gold")
	for _, e := range []string{"pw.down", "pw.failed"} {
		t.Logf("%s: %d", e, l.Count(m, "pe1", e))
	}
	l.mesh()
}

// rebridge: a bridge that vanishes takes its pseudowires along, and they come
// again with it.
func (l *lanLab) rebridge(t *testing.T) {
	m := l.Mark()
	before := l.left("pe2")
	l.In("pe2", func() error {
		dev, err := netlink.LinkByName("vsi-lan")
		if err != nil {
			return err
		}
		return netlink.LinkDel(dev)
	})
	l.Wait(t, m, "pe2", "pw.down", "vsi=vsi-lan", "ve=1")
	l.Wait(t, m, "pe2", "pw.down", "vsi=vsi-lan", "ve=3")
	e := l.Wait(t, m, "pe2", "pw.failed", "vsi=vsi-lan", "ve=1")
	require.Contains(t, e.Attr["error"], "device vsi-lan: no such device")
	require.Len(t, l.ports("pe2"), 2, "twin's stay")
	m = l.Mark()
	l.Converge(vpntest.State(l.Plan))
	l.Wait(t, m, "pe2", "pw.up", "vsi=vsi-lan", "ve=1")
	l.Wait(t, m, "pe2", "pw.up", "vsi=vsi-lan", "ve=3")
	l.Wait(t, m, "pe2", "flow.up", "flow=gold")
	require.Equal(t, before, l.left("pe2"))
	l.mesh()
}

func (l *lanLab) unplug(t *testing.T) {
	m := l.Mark()
	l.In("pe3", func() error {
		dev, err := netlink.LinkByName(l.port("pe3", "pe1"))
		if err != nil {
			return err
		}
		return netlink.LinkDel(dev)
	})
	l.Wait(t, m, "pe3", "pw.up", "ve=1")
	l.mesh()
}

func (l *lanLab) kill(t *testing.T) {
	m := l.Mark()
	began := event.Now()
	before := l.left("pe3")
	require.NoError(t, l.s["pe3"].Kill())
	e := l.Wait(t, m, "pe1", "pw.down", "ve=3")
	l.Wait(t, m, "pe2", "pw.down", "ve=3")
	t.Logf("withdrawn %v after the kill", e.T.Sub(began))
	require.Equal(t, before, l.left("pe3"), "a crash leaves what is in the kernel")
	l.once(sent{l.at("s1", 1), broadcast, but("s3")})
	l.once(sent{l.at("s3", 1), broadcast, func(s *vpntest.Station) bool { return s.Site == "s3" }})

	// Leave something that no one wants.
	l.In("pe3", func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		var b rtnl.Batch
		b.Veth(rtnl.Veth{Link: rtnl.Link{Name: "pw999", Index: rtnl.FirstSpeakerIndex + 1998, Group: rtnl.GroupSpeaker}, Peer: rtnl.Link{Name: "pw999x", Group: rtnl.GroupSpeaker}})
		b.MPLSReplace(rtnl.MPLSRoute{In: 999, DevIndex: rtnl.FirstSpeakerIndex + 1998, Protocol: rtnl.ProtocolBGP})
		return conn.Do(&b)
	})
	m = l.Mark()
	began = event.Now()
	l.start("pe3")
	l.configure("pe3")
	var last event.Mono
	for _, w := range []string{"pe1 3", "pe2 3", "pe3 1", "pe3 2"} {
		pe, ve, _ := strings.Cut(w, " ")
		last = max(last, l.Wait(t, m, pe, "pw.up", "vsi=vsi-lan", "ve="+ve).T)
	}
	t.Logf("back %v after its successor's start", last.Sub(began))
	l.Wait(t, m, "pe3", "pw.down", "dev=pw999")
	require.Equal(t, before, l.left("pe3"))
	l.mesh()
}

func (l *lanLab) stop(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m := l.Mark()
	require.NoError(t, l.s["pe3"].Stop(ctx))
	require.Empty(t, l.left("pe3"))
	l.Wait(t, m, "pe1", "pw.down", "ve=3")
	require.NoError(t, l.s["pe1"].Stop(ctx))
	require.Empty(t, l.left("pe1"))
}

// TestVPLSThroughput sends TCP over a pseudowire, over an l3vpn and between
// the PEs by plain routing, in turn, over the same links. Only the ratios mean
// something.
func TestVPLSThroughput(t *testing.T) {
	l := newLANLab(t, "rate")
	red1, _ := l.Machine(t, "red", "s1")
	red2, redAddr := l.Machine(t, "red", "s2")
	legs := []struct {
		name     string
		from, to string
		addr     netip.Addr
	}{
		{"pseudowire", l.at("s1", 2).Name, l.at("s2", 2).Name, l.at("s2", 2).Addr},
		{"l3vpn", red1, red2, redAddr},
		{"plain routing PE to PE", "pe1", "pe2", loopback(l.Plan, "pe2")},
	}
	const rounds = 5
	rates := map[string][]float64{}
	for range rounds {
		for _, leg := range legs {
			rates[leg.name] = append(rates[leg.name], l.bulk(leg.from, leg.to, leg.addr))
		}
	}
	median := func(name string) float64 {
		s := slices.Sorted(slices.Values(rates[name]))
		return s[len(s)/2]
	}
	for _, leg := range legs {
		t.Logf("%-24s median %.2f Gbit/s of %.2f, %.2f of plain routing", leg.name, median(leg.name), rates[leg.name], median(leg.name)/median("plain routing PE to PE"))
	}
	// What else the computer does can only take from a rate: the best rounds
	// are compared.
	require.Greater(t, slices.Max(rates["pseudowire"])/slices.Max(rates["l3vpn"]), 0.4)
}

// bulk is Gbit/s of one TCP connection.
func (l *lanLab) bulk(from, to string, addr netip.Addr) float64 {
	l.t.Helper()
	const volume = 128 << 20
	var server net.Listener
	l.In(to, func() (err error) {
		server, err = net.Listen("tcp4", ":7008")
		return err
	})
	defer server.Close()
	got := make(chan int64, 1)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			got <- 0
			return
		}
		defer conn.Close()
		n, _ := io.Copy(io.Discard, onlyReader{conn})
		got <- n
	}()
	var conn net.Conn
	l.In(from, func() (err error) {
		conn, err = net.DialTimeout("tcp4", netip.AddrPortFrom(addr, 7008).String(), 5*time.Second)
		return err
	})
	block := make([]byte, 1<<20)
	began := time.Now()
	for sent := 0; sent < volume; sent += len(block) {
		_, err := conn.Write(block)
		require.NoError(l.t, err)
	}
	require.NoError(l.t, conn.Close())
	require.Equal(l.t, int64(volume), <-got)
	return volume * 8 / time.Since(began).Seconds() / 1e9
}

// onlyReader keeps io.Copy to plain reads.
type onlyReader struct{ io.Reader }
