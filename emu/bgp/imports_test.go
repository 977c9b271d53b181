package bgp

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/fabric"
)

var cmpAddrs = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

// importConfig is PE 1 with two tenants; its tunnels lead to PE 2 (an LSP of
// several hops) and PE 3 (the neighbor).
func importConfig() *Config {
	return &Config{Node: "pe1", ASN: 65000, RouterID: addr("10.255.0.1"),
		VRFs: []VRF{
			{Name: "vrf-red", Table: 1001, RD: "65000:1001", Label: 2011, Circuits: []Circuit{
				{Site: "s1", Prefix: prefix("10.0.1.0/24"), ExportRT: "65000:1", ImportRT: "65000:101"},
				{Site: "s4", Prefix: prefix("10.0.4.0/24"), ExportRT: "65000:4", ImportRT: "65000:104"}}},
			{Name: "vrf-blue", Table: 1002, RD: "65000:2001", Label: 2021, Circuits: []Circuit{
				{Site: "s1", Prefix: prefix("10.0.1.0/24"), ExportRT: "65000:21", ImportRT: "65000:121"}}},
		},
		Tunnels: []Tunnel{
			{Egress: addr("10.255.0.2"), Label: 1102, Via: addr("10.1.0.2"), Dev: "p1"},
			{Egress: addr("10.255.0.3"), Via: addr("10.1.0.6"), Dev: "pe3"},
		},
	}
}

func TestImport(t *testing.T) {
	from2 := func(rd, pfx string, label uint32, rts ...string) path {
		return path{RD: rd, Prefix: prefix(pfx), Label: label, NextHop: addr("10.255.0.2"), RTs: rts}
	}
	red2 := vrfRoute{VRF: "vrf-red", Table: 1001, Prefix: prefix("10.0.2.0/24"), Way: way{addr("10.255.0.2"), fabric.Stack{1102, 2012}, addr("10.1.0.2"), "p1"}}
	for _, c := range []struct {
		name  string
		paths []path
		want  []vrfRoute
	}{
		{"one tenant", []path{from2("65000:1002", "10.0.2.0/24", 2012, "65000:101")}, []vrfRoute{red2}},
		{"any of the targets, any of the circuits", []path{from2("65000:1002", "10.0.2.0/24", 2012, "65000:999", "65000:104")}, []vrfRoute{red2}},
		{"no target of ours", []path{from2("65000:1002", "10.0.2.0/24", 2012, "65000:102")}, nil},
		{"no target at all", []path{from2("65000:1002", "10.0.2.0/24", 2012)}, nil},
		{"the export target is not imported", []path{from2("65000:1002", "10.0.2.0/24", 2012, "65000:1")}, nil},
		{"same prefix of two tenants", []path{
			from2("65000:1002", "10.0.2.0/24", 2012, "65000:101"), from2("65000:2002", "10.0.2.0/24", 2022, "65000:121")},
			[]vrfRoute{red2, {VRF: "vrf-blue", Table: 1002, Prefix: prefix("10.0.2.0/24"), Way: way{addr("10.255.0.2"), fabric.Stack{1102, 2022}, addr("10.1.0.2"), "p1"}}}},
		{"one route in two VRFs", []path{from2("65000:1002", "10.0.2.0/24", 2012, "65000:101", "65000:121")},
			[]vrfRoute{red2, {VRF: "vrf-blue", Table: 1002, Prefix: prefix("10.0.2.0/24"), Way: way{addr("10.255.0.2"), fabric.Stack{1102, 2012}, addr("10.1.0.2"), "p1"}}}},
		{"neighbor as egress: no LSP label", []path{{RD: "65000:1003", Prefix: prefix("10.0.3.0/24"), Label: 2013, NextHop: addr("10.255.0.3"), RTs: []string{"65000:101"}}},
			[]vrfRoute{{VRF: "vrf-red", Table: 1001, Prefix: prefix("10.0.3.0/24"), Way: way{addr("10.255.0.3"), fabric.Stack{2013}, addr("10.1.0.6"), "pe3"}}}},
		{"no tunnel", []path{{RD: "65000:1009", Prefix: prefix("10.0.3.0/24"), Label: 2013, NextHop: addr("10.255.0.9"), RTs: []string{"65000:101"}}}, nil},
		{"no label", []path{{RD: "65000:1003", Prefix: prefix("10.0.3.0/24"), NextHop: addr("10.255.0.3"), RTs: []string{"65000:101"}}}, nil},
		{"our own, reflected", []path{{RD: "65000:1003", Prefix: prefix("10.0.3.0/24"), Label: 2011, NextHop: addr("10.255.0.1"), RTs: []string{"65000:101"}}}, nil},
		{"attached here", []path{from2("65000:1002", "10.0.4.0/24", 2012, "65000:101", "65000:121")},
			[]vrfRoute{{VRF: "vrf-blue", Table: 1002, Prefix: prefix("10.0.4.0/24"), Way: way{addr("10.255.0.2"), fabric.Stack{1102, 2012}, addr("10.1.0.2"), "p1"}}}},
		{"two sites, lowest egress", []path{
			{RD: "65000:1003", Prefix: prefix("10.0.2.0/24"), Label: 2013, NextHop: addr("10.255.0.3"), RTs: []string{"65000:101"}},
			from2("65000:1002", "10.0.2.0/24", 2012, "65000:101")}, []vrfRoute{red2}},
		{"two sites, the lowest is not importable", []path{
			{RD: "65000:1003", Prefix: prefix("10.0.2.0/24"), Label: 2013, NextHop: addr("10.255.0.3"), RTs: []string{"65000:101"}},
			from2("65000:1002", "10.0.2.0/24", 2012, "65000:102")},
			[]vrfRoute{{VRF: "vrf-red", Table: 1001, Prefix: prefix("10.0.2.0/24"), Way: way{addr("10.255.0.3"), fabric.Stack{2013}, addr("10.1.0.6"), "pe3"}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rib{}
			for _, p := range c.paths {
				r.put(p)
			}
			got, want := map[routeKey]vrfRoute{}, map[routeKey]vrfRoute{}
			im := newImporter(importConfig())
			for pfx := range r {
				im.want(r, pfx, newReach(), got)
			}
			for _, w := range c.want {
				want[w.key()] = w
			}
			require.Empty(t, cmp.Diff(want, got, cmpAddrs))
		})
	}
}

func TestRIBForgetsWhatIsWithdrawn(t *testing.T) {
	r := rib{}
	p := path{RD: "65000:1002", Prefix: prefix("10.0.2.0/24"), Label: 2012}
	r.put(p)
	q := p
	q.RD = "65000:1003"
	r.put(q)
	require.False(t, r.drop("65000:1009", p.Prefix))
	require.True(t, r.drop(p.RD, p.Prefix))
	require.False(t, r.drop(p.RD, p.Prefix))
	require.True(t, r.drop(q.RD, q.Prefix))
	require.Empty(t, r)
}

func TestDiffRoutes(t *testing.T) {
	route := func(table int, pfx string, label uint32) vrfRoute {
		return vrfRoute{VRF: "v", Table: table, Prefix: prefix(pfx), Way: way{Labels: fabric.Stack{label}}}
	}
	table := func(rs ...vrfRoute) map[routeKey]vrfRoute {
		m := map[routeKey]vrfRoute{}
		for _, r := range rs {
			m[r.key()] = r
		}
		return m
	}
	a, b, c := route(1, "10.0.1.0/24", 21), route(1, "10.0.2.0/24", 22), route(2, "10.0.1.0/24", 23)
	changed := route(1, "10.0.2.0/24", 99)
	for _, x := range []struct {
		name       string
		have, want map[routeKey]vrfRoute
		scope      map[netip.Prefix]bool
		set, del   []vrfRoute
	}{
		{"same", table(a, b, c), table(a, b, c), nil, nil, nil},
		{"from nothing, in table order", nil, table(c, b, a), nil, []vrfRoute{a, b, c}, nil},
		{"to nothing", table(a, b, c), nil, nil, nil, []vrfRoute{a, b, c}},
		{"changed in place", table(a, b), table(a, changed), nil, []vrfRoute{changed}, nil},
		{"scope leaves the rest", table(a, b, c), nil, map[netip.Prefix]bool{prefix("10.0.2.0/24"): true}, nil, []vrfRoute{b}},
		{"a predecessor's route", map[routeKey]vrfRoute{a.key(): {Table: 1, Prefix: a.Prefix}}, table(a), nil, []vrfRoute{a}, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			set, del := diffRoutes(x.have, x.want, x.scope, []int{1, 2})
			require.Empty(t, cmp.Diff(x.set, set, cmpAddrs))
			require.Empty(t, cmp.Diff(x.del, del, cmpAddrs))
		})
	}
}

func TestDiffExports(t *testing.T) {
	was := importConfig().exports()
	withdraw, announce := difference(nil, was, compareExports)
	require.Empty(t, withdraw)
	require.Len(t, announce, 3)
	require.Equal(t, export{VRF: "vrf-red", Site: "s1", RD: "65000:1001", Prefix: prefix("10.0.1.0/24"), Label: 2011, RT: "65000:1"}, announce[0])

	withdraw, announce = difference(was, importConfig().exports(), compareExports)
	require.Empty(t, withdraw)
	require.Empty(t, announce)

	next := importConfig()
	next.VRFs[0].Circuits = next.VRFs[0].Circuits[:1]       // s4 leaves
	next.VRFs[1].Circuits[0].ExportRT = "65000:22"          // blue's target changes
	next.VRFs[0].Circuits[0].Prefix = prefix("10.0.9.0/24") // red s1 is renumbered
	withdraw, announce = difference(was, next.exports(), compareExports)
	require.Equal(t, []netip.Prefix{prefix("10.0.1.0/24"), prefix("10.0.4.0/24")}, []netip.Prefix{withdraw[0].Prefix, withdraw[1].Prefix})
	require.Len(t, announce, 2)
	require.Equal(t, "65000:22", announce[1].RT)
}

func TestPathsSurviveGoBGPsEncoding(t *testing.T) {
	e := export{VRF: "vrf-red", Site: "s1", RD: "65000:1001", Prefix: prefix("10.0.1.0/25"), Label: 2011, RT: "65000:70001"}
	p, err := e.apiPath(addr("10.255.0.1"))
	require.NoError(t, err)
	got, err := parsePath(p)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(path{RD: e.RD, Prefix: e.Prefix, Label: 2011, NextHop: addr("10.255.0.1"), RTs: []string{"65000:70001"}, Pref: defaultPref}, got.(path), cmpAddrs))
	e.Pref = 50
	p, err = e.apiPath(addr("10.255.0.1"))
	require.NoError(t, err)
	got, err = parsePath(p)
	require.NoError(t, err)
	require.Equal(t, 50, got.(path).Pref)
	p.IsWithdraw = true
	got, err = parsePath(p)
	require.NoError(t, err)
	require.Equal(t, e.Prefix, got.(path).Prefix)
}
