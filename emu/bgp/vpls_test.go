package bgp

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/topo"
)

// lanExport is what PE 3 of five says of VPC 1.
var lanExport = vplsExport{vplsNLRI: vplsNLRI{RD: "65000:1003", VEID: 3, labelBlock: labelBlock{Offset: 1, Size: 5, Base: 20101}},
	VSI: "vsi-lan", MTU: 1500, RTs: "65000:1001 65000:1004"}

// bytesOf writes hexadecimal digits with remarks as bytes.
func bytesOf(t testing.TB, lines string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(lines) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	require.NoError(t, err)
	return b
}

// TestVPLSOnTheWire holds what leaves a speaker against the layouts of RFC
// 4761: figure 3 (NLRI) and figure 5 (Layer2 Info).
func TestVPLSOnTheWire(t *testing.T) {
	p, err := lanExport.apiPath(addr("10.255.0.3"))
	require.NoError(t, err)
	attrs, err := apiutil.GetNativePathAttributes(p)
	require.NoError(t, err)
	got := map[bgp.BGPAttrType][]byte{}
	for _, a := range attrs {
		b, err := a.Serialize()
		require.NoError(t, err)
		got[a.GetType()] = b
	}
	require.Equal(t, bytesOf(t, `
		80 0e 1c          # MP_REACH_NLRI, optional, 28 bytes (RFC 4760 section 3)
		0019 41           # AFI 25, SAFI 65
		04 0aff0003       # next hop 10.255.0.3
		00                # reserved
		0011              # length of the NLRI: 17
		0000 fde8 000003eb # RD, type 0: 65000:1003
		0003              # VE ID
		0001              # VE block offset
		0005              # VE block size
		04e850            # label base: 20 bits of 20101, then 4 of nothing
	`), got[bgp.BGP_ATTR_TYPE_MP_REACH_NLRI])
	require.Equal(t, bytesOf(t, `
		c0 10 18          # extended communities, optional transitive, 24 bytes
		0002 fde8 000003e9 # route target 65000:1001
		0002 fde8 000003ec # route target 65000:1004
		800a 13 00 05dc 0000 # Layer2 Info: encapsulation 19, flags 0, MTU 1500, reserved
	`), got[bgp.BGP_ATTR_TYPE_EXTENDED_COMMUNITIES])
}

// TestVPLSOffTheWire reads the same bytes as a neighbor's.
func TestVPLSOffTheWire(t *testing.T) {
	var reach bgp.PathAttributeMpReachNLRI
	require.NoError(t, reach.DecodeFromBytes(bytesOf(t, `800e1c 0019 41 04 0aff0003 00 0011 0000fde8000003eb 0003 0001 0005 04e851`)), "bottom-of-stack bit set, as some write it")
	for _, c := range []struct {
		name, communities string
		want              layer2
	}{
		{"as ours", "c01010 0002fde8000003e9 800a130005dc0000", layer2{19, 0, 1500}},
		{"control word and sequence", "c01010 0002fde8000003e9 800a130323280000", layer2{19, 3, 9000}},
		{"Juniper's site preference in the reserved bytes", "c01010 0002fde8000003e9 800a130005dc0064", layer2{19, 0, 1500}},
		{"another encapsulation", "c01010 0002fde8000003e9 800a040205dc0000", layer2{4, 2, 1500}},
		{"none", "c01008 0002fde8000003e9", layer2{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var communities bgp.PathAttributeExtendedCommunities
			require.NoError(t, communities.DecodeFromBytes(bytesOf(t, c.communities)))
			p, err := apiutil.NewPath(reach.Value[0], false, []bgp.PathAttributeInterface{&reach, &communities}, time.Now())
			require.NoError(t, err)
			got, err := parsePath(p)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(vplsPath{vplsNLRI: lanExport.vplsNLRI, NextHop: addr("10.255.0.3"), RTs: []string{"65000:1001"}, Layer2: c.want, Pref: defaultPref},
				got, cmpAddrs, cmp.AllowUnexported(labelBlock{}, vplsPath{}, vplsNLRI{})))
			p.IsWithdraw = true
			got, err = parsePath(p)
			require.NoError(t, err)
			require.Equal(t, vplsPath{vplsNLRI: lanExport.vplsNLRI}, got)
		})
	}
}

func TestLabelBlock(t *testing.T) {
	b := labelBlock{Offset: 3, Size: 2, Base: 20103}
	for ve, want := range map[int]uint32{3: 20103, 4: 20104} {
		got, ok := b.label(ve)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	for _, ve := range []int{0, 2, 5, 65535} {
		_, ok := b.label(ve)
		require.False(t, ok, ve)
	}
	require.Equal(t, "labels 20103-20104 for VE 3-4", b.String())
}

// lanConfig is PE 1 with a VPLS; its tunnels lead to PE 2 (an LSP of several
// hops) and PE 3 (the neighbor).
func lanConfig() *Config {
	c := importConfig()
	c.VSIs = []VSI{{Name: "vsi-lan", RD: "65000:3001", VEID: 1, BlockOffset: 1, BlockSize: 4, LabelBase: 20301, MTU: 1500,
		ExportRTs: []string{"65000:31"}, ImportRTs: []string{"65000:131", "65000:134"}}}
	return c
}

// from is the path of PE ve for that VPLS.
func from(ve int, change func(*vplsPath)) vplsPath {
	p := vplsPath{vplsNLRI: vplsNLRI{RD: "65000:300" + string(rune('0'+ve)), VEID: ve, labelBlock: labelBlock{Offset: 1, Size: 4, Base: 20301}},
		NextHop: addr("10.255.0." + string(rune('0'+ve))), RTs: []string{"65000:131"}, Layer2: layer2{encapsVPLS, 0, 1500}}
	if change != nil {
		change(&p)
	}
	return p
}

func TestWants(t *testing.T) {
	to2 := pseudowire{VSI: "vsi-lan", VE: 2, Egress: addr("10.255.0.2"), In: 20302, MTU: 1500, Out: 20301, Labels: fabric.Stack{1102, 20301}, Via: addr("10.1.0.2"), Dev: "p1"}
	to3 := pseudowire{VSI: "vsi-lan", VE: 3, Egress: addr("10.255.0.3"), In: 20303, MTU: 1500, Out: 20301, Labels: fabric.Stack{20301}, Via: addr("10.1.0.6"), Dev: "pe3"}
	for _, c := range []struct {
		name   string
		paths  []vplsPath
		want   []pseudowire
		refuse string
	}{
		{"nobody", nil, nil, ""},
		{"an LSP and a neighbor", []vplsPath{from(2, nil), from(3, nil)}, []pseudowire{to2, to3}, ""},
		{"any of our targets", []vplsPath{from(2, func(p *vplsPath) { p.RTs = []string{"65000:32", "65000:134"} })}, []pseudowire{to2}, ""},
		{"not for us", []vplsPath{from(2, func(p *vplsPath) { p.RTs = []string{"65000:32", "65000:132"} })}, nil, ""},
		{"our export target is not imported", []vplsPath{from(2, func(p *vplsPath) { p.RTs = []string{"65000:31"} })}, nil, ""},
		{"our own, reflected", []vplsPath{from(1, nil)}, nil, ""},
		{"our VE ID elsewhere", []vplsPath{from(2, func(p *vplsPath) { p.VEID = 1 })}, nil, "VE 1 at 10.255.0.2: it has our own VE ID"},
		{"its block leaves us out", []vplsPath{from(2, func(p *vplsPath) { p.Offset = 2 })}, nil,
			"VE 2 at 10.255.0.2: its label block has no label for us, VE 1 (labels 20301-20304 for VE 2-5)"},
		{"our block leaves it out", []vplsPath{from(2, func(p *vplsPath) { p.VEID = 9 })}, nil,
			"VE 9 at 10.255.0.2: our label block has no label for it (labels 20301-20304 for VE 1-4)"},
		{"a reserved label", []vplsPath{from(2, func(p *vplsPath) { p.Base = 3 })}, nil, "VE 2 at 10.255.0.2: its label for us is 3: want 16..1048575"},
		{"no LSP", []vplsPath{from(2, func(p *vplsPath) { p.NextHop = addr("10.255.0.9") })}, nil, "VE 2 at 10.255.0.9: no LSP leads there"},
		{"MTU", []vplsPath{from(2, func(p *vplsPath) { p.Layer2.MTU = 1400 })}, nil, "VE 2 at 10.255.0.2: its MTU is 1400, ours 1500"},
		{"no Layer2 Info", []vplsPath{from(2, func(p *vplsPath) { p.Layer2 = layer2{} })}, nil, "VE 2 at 10.255.0.2: it says no encapsulation and MTU (Layer2 Info)"},
		{"encapsulation", []vplsPath{from(2, func(p *vplsPath) { p.Layer2.Encaps = 4 })}, nil, "VE 2 at 10.255.0.2: it wants encapsulation 4, not 19 (VPLS)"},
		{"control word", []vplsPath{from(2, func(p *vplsPath) { p.Layer2.Flags = 2 })}, nil, "VE 2 at 10.255.0.2: it wants a control word, which the kernel does not write"},
		{"sequence", []vplsPath{from(2, func(p *vplsPath) { p.Layer2.Flags = 1 })}, nil, "VE 2 at 10.255.0.2: it wants sequence numbers, which the kernel does not write"},
		{"two blocks, one for us", []vplsPath{from(2, func(p *vplsPath) { p.Offset, p.Base = 5, 20305 }), from(2, nil)}, []pseudowire{to2}, ""},
		{"a new block beside the old: the lower base", []vplsPath{from(2, func(p *vplsPath) { p.Base = 20401 }), from(2, nil)}, []pseudowire{to2}, ""},
		{"two PEs with one VE ID: the lower next hop", []vplsPath{from(3, func(p *vplsPath) { p.VEID = 2 }), from(2, nil)}, []pseudowire{to2}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			paths := map[vplsNLRI]vplsPath{}
			for _, p := range c.paths {
				paths[p.vplsNLRI] = p
			}
			want, refused := newImporter(lanConfig()).wants(paths, newReach())
			_, got := difference(nil, want.pws, comparePWs)
			require.Empty(t, cmp.Diff(c.want, got, cmpAddrs))
			if c.refuse == "" {
				require.Empty(t, refused)
				return
			}
			require.Len(t, refused, 1)
			for _, why := range refused {
				require.Equal(t, c.refuse, why.Why)
			}
		})
	}
}

// gold is a reservation from a machine here to one at PE 2, by an explicit path.
var gold = Flow{Name: "gold", Egress: addr("10.255.0.2"), Src: topo.MAC{2, 0, 3, 1, 0, 1}, Dst: topo.MAC{2, 0, 3, 2, 0, 1},
	Labels: []uint32{30004, 30002, 40001}, Via: addr("10.1.0.10"), Dev: "p2", In: 40002}

func TestFlowsNeedTheirPseudowire(t *testing.T) {
	c := lanConfig()
	other := gold
	other.Name, other.Egress = "silver", addr("10.255.0.3")
	c.VSIs[0].Flows = []Flow{gold, other}
	two := from(2, nil)
	want, _ := newImporter(c).wants(map[vplsNLRI]vplsPath{two.vplsNLRI: two}, newReach())
	require.Empty(t, cmp.Diff(map[flowKey]reserved{{"vsi-lan", "gold"}: {VSI: "vsi-lan", Name: "gold", Port: 20302, Src: gold.Src, Dst: gold.Dst,
		Labels: fabric.Stack{30004, 30002, 40001}, Via: gold.Via, Dev: "p2", In: 40002}}, want.flows, cmpAddrs))
	require.Equal(t, uint32(40001), want.flows[flowKey{"vsi-lan", "gold"}].label())
	require.Equal(t, "30004/30002/40001", words(want.flows[flowKey{"vsi-lan", "gold"}].Labels))
}

func TestDiffWiring(t *testing.T) {
	pw2 := pseudowire{VSI: "vsi-lan", VE: 2, In: 20302, MTU: 1500, Out: 20301, Dev: "p1"}
	pw3 := pseudowire{VSI: "vsi-lan", VE: 3, In: 20303, MTU: 1500, Out: 20301, Dev: "p1"}
	rerouted, again := pw2, pw2
	rerouted.Dev = "p2"
	again.MTU = -1
	f2 := reserved{VSI: "vsi-lan", Name: "gold", Port: 20302, Labels: fabric.Stack{30001, 40001}, In: 40002, Dev: "p1"}
	f2way, f2label := f2, f2
	f2way.Labels = fabric.Stack{30002, 40001}
	f2label.Labels = fabric.Stack{30001, 40003}
	f3 := reserved{VSI: "vsi-lan", Name: "silver", Port: 20303, Labels: fabric.Stack{40005}, In: 40006}
	wires := func(pws []pseudowire, flows ...reserved) wiring {
		w := newWiring()
		for _, p := range pws {
			w.pws[p.key()] = p
		}
		for _, f := range flows {
			w.flows[f.key()] = f
		}
		return w
	}
	type pws = []pseudowire
	for _, x := range []struct {
		name       string
		have, want wiring
		ops        []wireOp
	}{
		{"same", wires(pws{pw2, pw3}, f2), wires(pws{pw3, pw2}, f2), nil},
		{"from nothing, flows last", wires(nil), wires(pws{pw3, pw2}, f3, f2),
			[]wireOp{{do: addPW, pw: pw2}, {do: addPW, pw: pw3}, {do: setFlow, flow: f2}, {do: setFlow, flow: f3}}},
		{"to nothing, flows first", wires(pws{pw2, pw3}, f3), wires(nil),
			[]wireOp{{do: dropFlow, flow: f3}, {do: dropPW, pw: pw2}, {do: dropPW, pw: pw3}}},
		{"another way, in place", wires(pws{pw2}, f2), wires(pws{rerouted}, f2), []wireOp{{do: routePW, pw: rerouted}}},
		{"made again, and its flow, not the other's", wires(pws{again, pw3}, f2, f3), wires(pws{pw2, pw3}, f2, f3),
			[]wireOp{{do: dropFlow, flow: f2}, {do: dropPW, pw: again}, {do: addPW, pw: pw2}, {do: setFlow, flow: f2}}},
		{"flow comes", wires(pws{pw2}), wires(pws{pw2}, f2), []wireOp{{do: setFlow, flow: f2}}},
		{"flow goes", wires(pws{pw2}, f2), wires(pws{pw2}), []wireOp{{do: dropFlow, flow: f2}}},
		{"flow another way, in place", wires(pws{pw2}, f2), wires(pws{pw2}, f2way), []wireOp{{do: setFlow, flow: f2way}}},
		{"flow with another label", wires(pws{pw2}, f2), wires(pws{pw2}, f2label), []wireOp{{do: dropFlow, flow: f2}, {do: setFlow, flow: f2label}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			require.Empty(t, cmp.Diff(x.ops, diffWiring(x.have, x.want), cmpAddrs, cmp.AllowUnexported(wireOp{})))
		})
	}
}

func TestVPLSExports(t *testing.T) {
	c := lanConfig()
	c.VSIs[0].ExportRTs = []string{"65000:34", "65000:31", "65000:34"}
	nobody := c.VSIs[0]
	nobody.ExportRTs = nil
	c.VSIs = append(c.VSIs, nobody)
	was := c.vplsExports(newReach(), nil)
	e := vplsExport{vplsNLRI: vplsNLRI{"65000:3001", 1, labelBlock{1, 4, 20301}}, VSI: "vsi-lan", MTU: 1500, RTs: "65000:31 65000:34"}
	require.Equal(t, map[vplsNLRI]vplsExport{e.vplsNLRI: e}, was)

	c.VSIs[0].BlockSize = 5 // another path to BGP
	withdraw, announce := difference(was, c.vplsExports(newReach(), nil), compareVPLSExports)
	require.Equal(t, []vplsExport{e}, withdraw)
	require.Len(t, announce, 1)
}

func TestValidateNamesEveryFaultOfAVSI(t *testing.T) {
	c := lanConfig()
	c.VSIs[0].Flows = []Flow{gold}
	require.NoError(t, c.Validate())
	bad := VSI{Name: "vrf-red", RD: "65000:3001", VEID: 0, BlockOffset: 0, BlockSize: 5, LabelBase: 1048575, MTU: 40, ExportRTs: []string{"x"}, ImportRTs: []string{"65000:1"},
		Flows: []Flow{{Name: "gold", Labels: []uint32{5, 40001}, In: 20301}, {Name: "gold"}}}
	c.VSIs = append(c.VSIs, bad)
	c.VSIs[0].LabelBase = 2019 // 2021 is blue's
	err := c.Validate()
	for _, want := range []string{
		`vsi "vrf-red": want the name of a bridge, once`, `vsi vrf-red: route distinguisher "65000:3001"`, "vsi vrf-red: VE ID 0: want 1..65535",
		"vsi vrf-red: label block of 5 VEs from VE 0 on", "vsi vrf-red: label block of 5 from 1048575 on", "vsi vrf-red: MTU 40: want 68..65535",
		`route target "x"`, "vsi vrf-red: flow gold: want a name, once", `vsi vrf-red: flow gold: egress "invalid IP"`, "flow gold: label 5: want 16..1048575",
		"flow gold: 0 labels: want 1..8", "label 2021: both vsi vsi-lan and vrf vrf-blue use it", "label 40001: both flow gold of vsi vsi-lan and flow gold of vsi vrf-red use it",
	} {
		require.ErrorContains(t, err, want)
	}
	rr := Config{Node: "rr", ASN: 65000, RouterID: addr("10.255.2.1"), Reflector: true, VSIs: lanConfig().VSIs}
	require.ErrorContains(t, rr.Validate(), "a reflector has no VRFs, no VSIs and no tunnels")
}

// FuzzNeighbor: what GoBGP decodes of a neighbor's bytes must not end the
// speaker or become a pseudowire with labels that are not its own, whatever it
// is. The bytes are those of a VPLS NLRI and of the extended communities.
func FuzzNeighbor(f *testing.F) {
	communities := bytesOf(f, "0002fde800000083 800a130005dc0000")
	f.Add(bytesOf(f, "0011 0000fde8000003eb 0002 0001 0005 04f4d0"), communities)
	f.Add(bytesOf(f, "0011 00020000fde80003 ffff 0001 ffff fffff1"), communities)
	f.Add(bytesOf(f, "0011 00010affff030003 0002 0000 0000 000000"), bytesOf(f, "800a040005dc0000 4004000000000000"))
	f.Fuzz(func(t *testing.T, nlri, communities []byte) {
		if len(nlri) != 19 || nlri[0] != 0 || nlri[1] != 17 {
			return // GoBGP's decoder trusts the length
		}
		var reach bgp.PathAttributeMpReachNLRI
		head := append([]byte{0x80, 0x0e, byte(9 + len(nlri))}, bytesOf(t, "0019 41 04 0aff0002 00")...)
		var attr bgp.PathAttributeExtendedCommunities
		if reach.DecodeFromBytes(append(head, nlri...)) != nil || len(communities) > 255 ||
			attr.DecodeFromBytes(append([]byte{0xc0, 0x10, byte(len(communities))}, communities...)) != nil {
			return
		}
		p, err := apiutil.NewPath(reach.Value[0], false, []bgp.PathAttributeInterface{&reach, &attr}, time.Now())
		if err != nil {
			return
		}
		got, err := parsePath(p)
		if err != nil {
			return
		}
		_, err = routeInfo(p)
		require.NoError(t, err)
		v := got.(vplsPath)
		v.RTs = append(v.RTs, "65000:131")
		want, refused := newImporter(lanConfig()).wants(map[vplsNLRI]vplsPath{v.vplsNLRI: v}, newReach())
		if v.isHome() {
			require.Empty(t, len(want.pws)+len(refused), "%+v", v)
			require.Len(t, newImporter(lanConfig()).homes(map[vplsNLRI]vplsPath{v.vplsNLRI: v}, newReach()), 1)
			return
		}
		require.Equal(t, 1, len(want.pws)+len(refused), "%+v", v)
		for _, w := range want.pws {
			v.Layer2.Flags &= flagControl | flagInOrder // the others must be zero, and are ignored
			require.Equal(t, layer2{encapsVPLS, 0, 1500}, v.Layer2)
			require.True(t, w.Out >= minLabel && w.Out <= maxLabel && w.In >= 20301 && w.In <= 20304, "%+v", w)
		}
	})
}
