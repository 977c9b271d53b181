package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/topo"
)

// newVPLSBench is newBench with a VPLS, lan, at all three PEs beside the
// tenants red and blue.
func newVPLSBench(t *testing.T) *bench {
	b := newBench(t)
	b.settle()
	tenants["lan"] = 3
	for i, pe := range []string{"pe1", "pe2", "pe3"} {
		c := b.cfg[pe]
		c.VSIs = []VSI{{Name: "vsi-lan", RD: fmt.Sprintf("65000:300%d", i+1), VEID: i + 1, BlockOffset: 1, BlockSize: 3, LabelBase: 20301, MTU: 1500,
			ExportRTs: []string{rt("export", "lan", i+1)}, ImportRTs: []string{rt("import", "lan", i+1)}}}
		b.cfg[pe] = c
	}
	b.admit(1, 2, 3)
	m := b.mark()
	b.configureAll()
	for _, w := range mesh {
		f := strings.Fields(w)
		b.wait(t, m, f[0], "pw.up", "vsi=vsi-lan", "ve="+f[1])
	}
	return b
}

// mesh is who has a pseudowire to which VE.
var mesh = []string{"pe1 2", "pe1 3", "pe2 1", "pe2 3", "pe3 1", "pe3 2"}

// admit makes these sites the members of lan.
func (b *bench) admit(sites ...int) {
	rr := b.cfg["rr"]
	var rules []RTRule
	for _, r := range rr.Policy {
		if r.Name != "lan" {
			rules = append(rules, r)
		}
	}
	lan := RTRule{Name: "lan", VPLS: true}
	for _, s := range sites {
		lan.From = append(lan.From, rt("export", "lan", s))
		lan.To = append(lan.To, rt("import", "lan", s))
	}
	rr.Policy = append(rules, lan)
	b.cfg["rr"] = rr
}

// vsi changes PE's VSI and configures it.
func (b *bench) vsi(pe string, change func(*VSI)) {
	b.t.Helper()
	c := b.cfg[pe]
	c.VSIs = append([]VSI(nil), c.VSIs...)
	change(&c.VSIs[0])
	b.cfg[pe] = c
	b.configure(pe)
}

func TestPseudowiresMesh(t *testing.T) {
	b := newVPLSBench(t)
	for _, w := range []string{
		"pe1 ve=2 egress=127.0.1.2 out=102/20301 in=20302 dev=pw20302",
		"pe1 ve=3 egress=127.0.1.3 out=103/20301 in=20303 dev=pw20303",
		"pe3 ve=1 egress=127.0.1.1 out=101/20303 in=20301 dev=pw20301",
	} {
		f := strings.Fields(w)
		b.wait(t, 0, f[0], "pw.up", f[1:]...)
	}
	require.Zero(t, b.count(0, "pe1", "pw.failed"))
	require.Equal(t, 2, b.count(0, "pe1", "pw.up"))
	b.wait(t, 0, "pe1", "bgp.announced", "vsi=vsi-lan", "rd=65000:3001", "ve=1", "block=labels 20301-20303 for VE 1-3", "mtu=1500", "rt=65000:10301")

	// At the reflector: To in addition, Layer2 Info kept, no effect on the
	// tenants' routes.
	rib, err := b.s["rr"].RIB(context.Background())
	require.NoError(t, err)
	require.Len(t, rib, 8)
	require.Equal(t, RouteInfo{RD: "65000:3001", NextHop: loopbacks["pe1"], From: loopbacks["pe1"], Best: true,
		VPLS: &VPLSInfo{VEID: 1, BlockOffset: 1, BlockSize: 3, LabelBase: 20301, MTU: 1500},
		RTs:  []string{rt("export", "lan", 1), rt("import", "lan", 1), rt("import", "lan", 2), rt("import", "lan", 3)}}, rib[5])
	require.Equal(t, "VE 1: labels 20301-20303 for VE 1-3, MTU 1500", rib[5].VPLS.String())
	require.Equal(t, []string{rt("import", "red", 1), rt("import", "red", 2), rt("import", "red", 3)}, rib[0].RTs)

	// The same configuration again changes nothing anywhere.
	m := b.mark()
	b.configureAll()
	require.Equal(t, m, b.mark(), b.dump(m))
}

func TestPolicyAloneJoinsAndExpelsALAN(t *testing.T) {
	b := newVPLSBench(t)
	m := b.mark()
	b.admit(1, 2)
	b.configure("rr")
	for _, w := range []string{"pe1 3", "pe2 3", "pe3 1", "pe3 2"} {
		f := strings.Fields(w)
		b.wait(t, m, f[0], "pw.down", "vsi=vsi-lan", "ve="+f[1])
	}
	require.Zero(t, b.count(m, "pe1", "pw.down", "ve=2"))
	require.Zero(t, b.count(m, "pe1", "route.removed"), "another tenant's routes were touched")
	m = b.mark()
	b.admit(1, 2, 3)
	b.configure("rr")
	for _, w := range []string{"pe1 3", "pe2 3", "pe3 1", "pe3 2"} {
		f := strings.Fields(w)
		b.wait(t, m, f[0], "pw.up", "vsi=vsi-lan", "ve="+f[1])
	}
	require.Zero(t, b.count(m, "pe1", "pw.up", "ve=2"))
}

func TestPseudowireThatCannotBeSaysWhyOnce(t *testing.T) {
	b := newVPLSBench(t)
	m := b.mark()
	b.vsi("pe3", func(v *VSI) { v.MTU = 1400 })
	b.wait(t, m, "pe1", "pw.down", "ve=3")
	b.wait(t, m, "pe1", "pw.failed", "vsi=vsi-lan", "egress=127.0.1.3", "ve=3", "error=VE 3 at 127.0.1.3: its MTU is 1400, ours 1500")
	b.wait(t, m, "pe3", "pw.failed", "ve=1", "error=VE 1 at 127.0.1.1: its MTU is 1500, ours 1400")
	b.configureAll()
	require.Equal(t, 1, b.count(m, "pe1", "pw.failed"), "said once")
	require.Zero(t, b.count(m, "pe1", "pw.down", "ve=2"))

	m = b.mark()
	b.vsi("pe3", func(v *VSI) { v.MTU = 1500 })
	b.wait(t, m, "pe1", "pw.up", "ve=3")
	b.wait(t, m, "pe3", "pw.up", "ve=1")
	b.wait(t, m, "pe3", "pw.up", "ve=2")

	// A block that leaves VE 1 and 2 out; the other direction says so too.
	m = b.mark()
	b.vsi("pe3", func(v *VSI) { v.BlockOffset, v.LabelBase = 3, 20303 })
	b.wait(t, m, "pe1", "pw.failed", "ve=3", "error=VE 3 at 127.0.1.3: its label block has no label for us, VE 1 (labels 20303-20305 for VE 3-5)")
	b.wait(t, m, "pe3", "pw.failed", "ve=1", "error=VE 1 at 127.0.1.1: our label block has no label for it (labels 20303-20305 for VE 3-5)")

	// Another base is another path, and the old one is withdrawn; the others
	// send with the new label.
	m = b.mark()
	b.vsi("pe3", func(v *VSI) { v.BlockOffset, v.LabelBase = 1, 20401 })
	b.wait(t, m, "pe1", "pw.up", "ve=3", "out=103/20401", "in=20303")
	b.wait(t, m, "pe3", "pw.up", "ve=1", "in=20401", "dev=pw20401")
	b.wait(t, m, "pe1", "bgp.lost", "ve=3")
	rib, err := b.s["rr"].RIB(context.Background())
	require.NoError(t, err)
	require.Len(t, rib, 8)

	// A larger block, for a PE that comes later, disturbs nobody.
	m = b.mark()
	b.vsi("pe3", func(v *VSI) { v.BlockSize = 4 })
	b.wait(t, m, "pe1", "bgp.received", "ve=3", "block=labels 20401-20404 for VE 1-4")
	b.wait(t, m, "pe1", "bgp.lost", "ve=3")
	require.Zero(t, b.count(m, "pe1", "pw.down")+b.count(m, "pe1", "pw.up")+b.count(m, "pe1", "pw.failed"), b.dump(m))
}

func TestTunnelsLeadPseudowires(t *testing.T) {
	b := newVPLSBench(t)
	m := b.mark()
	c := b.cfg["pe1"]
	c.Tunnels = []Tunnel{{Egress: loopbacks["pe2"], Via: addr("10.0.0.9"), Dev: "direct"}, c.Tunnels[1]}
	b.cfg["pe1"] = c
	b.configure("pe1")
	b.wait(t, m, "pe1", "pw.up", "ve=2", "out=20301") // neighbor: no LSP label
	require.Zero(t, b.count(m, "pe1", "pw.down"), "a change of the way is made in place")

	c.Tunnels = c.Tunnels[1:]
	b.cfg["pe1"] = c
	m = b.mark()
	b.configure("pe1")
	b.wait(t, m, "pe1", "pw.down", "ve=2")
	b.wait(t, m, "pe1", "pw.failed", "ve=2", "error=VE 2 at 127.0.1.2: no LSP leads there")

	// What the kernel refuses is tried again, and told once.
	m = b.mark()
	c.Tunnels = []Tunnel{{Egress: loopbacks["pe2"], Label: 102, Via: addr("10.0.0.1"), Dev: "core"}, {Egress: loopbacks["pe3"], Label: 103, Via: addr("10.0.0.1"), Dev: "broken"}}
	require.ErrorContains(t, b.s["pe1"].Configure(context.Background(), c), "no such device")
	b.wait(t, m, "pe1", "pw.up", "ve=2", "out=102/20301")
	b.wait(t, m, "pe1", "pw.failed", "ve=3", "error=no such device")
	c.Tunnels[1].Dev = "core"
	m = b.mark()
	require.NoError(t, b.s["pe1"].Configure(context.Background(), c))
	b.wait(t, m, "pe1", "pw.up", "ve=3", "out=103/20301")
}

func TestFlowsConvergeByThemselves(t *testing.T) {
	b := newVPLSBench(t)
	m := b.mark()
	flow := Flow{Name: "gold", Egress: loopbacks["pe2"], Src: topo.MAC{2, 0, 0, 0, 0, 1}, Labels: []uint32{30002, 40001}, Via: addr("10.0.0.1"), Dev: "core", In: 40002}
	b.vsi("pe1", func(v *VSI) { v.Flows = []Flow{flow} })
	b.wait(t, m, "pe1", "flow.up", "vsi=vsi-lan", "flow=gold", "dev=pw20302", "out=30002/40001", "in=40002")
	flow.Labels = []uint32{30003, 30002, 40001}
	b.vsi("pe1", func(v *VSI) { v.Flows = []Flow{flow} })
	b.wait(t, m, "pe1", "flow.up", "flow=gold", "out=30003/30002/40001")
	require.Zero(t, b.count(m, "pe1", "flow.down"))
	b.vsi("pe1", func(v *VSI) { v.Flows = nil })
	b.wait(t, m, "pe1", "flow.down", "flow=gold")
	require.Zero(t, b.count(m, "pe1", "pw.up")+b.count(m, "pe1", "pw.down"), "the pseudowires were touched")
	require.Zero(t, b.count(m, "pe2", "bgp.received"), "a flow is nobody else's business")

	// It goes with its pseudowire and comes again.
	flow.Dev = "broken"
	b.cfg["pe1"].VSIs[0].Flows = []Flow{flow}
	m = b.mark()
	require.ErrorContains(t, b.s["pe1"].Configure(context.Background(), b.cfg["pe1"]), "no such device")
	b.wait(t, m, "pe1", "flow.failed", "flow=gold", "error=no such device")
	flow.Dev = "core"
	b.vsi("pe1", func(v *VSI) { v.Flows = []Flow{flow} })
	b.wait(t, m, "pe1", "flow.up", "flow=gold")
	b.admit(1, 3)
	b.configure("rr")
	b.wait(t, m, "pe1", "flow.down", "flow=gold")
	b.wait(t, m, "pe1", "pw.down", "ve=2")
	b.admit(1, 2, 3)
	m = b.mark()
	b.configure("rr")
	b.wait(t, m, "pe1", "pw.up", "ve=2")
	b.wait(t, m, "pe1", "flow.up", "flow=gold")
}

func TestKilledSpeakersPseudowires(t *testing.T) {
	b := newVPLSBench(t)
	m := b.mark()
	require.NoError(t, b.s["pe3"].Kill())
	b.wait(t, m, "pe1", "pw.down", "ve=3")
	b.wait(t, m, "pe2", "pw.down", "ve=3")
	m = b.mark()
	b.start("pe3")
	b.configure("pe3")
	for _, w := range []string{"pe1 3", "pe2 3", "pe3 1", "pe3 2"} {
		f := strings.Fields(w)
		b.wait(t, m, f[0], "pw.up", "vsi=vsi-lan", "ve="+f[1])
	}
	m = b.mark()
	require.NoError(t, b.s["pe2"].Stop(context.Background()))
	require.Equal(t, 2, b.count(m, "pe2", "pw.down"))
	b.wait(t, m, "pe1", "pw.down", "ve=2")
}

// TestNeighborWithoutVPLS is a PE of another make: it speaks VPNv4 alone.
// Its session comes up, it gets no VPLS path, and its routes arrive.
func TestNeighborWithoutVPLS(t *testing.T) {
	b := newVPLSBench(t)
	require.NoError(t, b.s["pe3"].Stop(context.Background()))
	ctx := context.Background()
	other := server.NewBgpServer(server.LoggerOption(&goLogger{post: func(any) {}}))
	go other.Serve()
	require.NoError(t, other.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: 65000, RouterId: "127.0.1.3", ListenPort: -1}}))
	t.Cleanup(other.Stop)
	m := b.mark()
	require.NoError(t, other.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:  &api.PeerConf{NeighborAddress: "127.0.1.9", PeerAsn: 65000},
		State: &api.PeerState{}, Timers: &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1}},
		Transport: &api.Transport{LocalAddress: "127.0.1.3", RemotePort: uint32(b.port)},
		AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: vpnv4, Enabled: true}}},
	}}))
	b.wait(t, m, "rr", "bgp.established", "neighbor=127.0.1.3")
	e := export{VRF: "x", RD: "65000:1003", Prefix: netip.MustParsePrefix("10.0.33.0/24"), Label: 2013, RT: rt("export", "red", 3)}
	p, err := e.apiPath(loopbacks["pe3"])
	require.NoError(t, err)
	_, err = other.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: p})
	require.NoError(t, err)
	b.wait(t, m, "pe1", "route.programmed", "vrf=vrf-red", "prefix=10.0.33.0/24")
	// What is said of the VPLS now goes to those who speak it.
	m = b.mark()
	b.vsi("pe2", func(v *VSI) { v.MTU = 1400 })
	b.wait(t, m, "pe1", "bgp.received", "ve=2", "mtu=1400")
	require.Zero(t, b.count(m, "rr", "bgp.down"))
	require.Equal(t, []netip.Addr{loopbacks["pe1"], loopbacks["pe2"], loopbacks["pe3"]}, b.s["rr"].Established())
}
