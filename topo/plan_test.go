package topo

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// cmpAddrs lets cmp compare addresses as values.
var cmpAddrs = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
}

func mustParse(t testing.TB, src string) *Scenario {
	t.Helper()
	sc, err := Parse("test.vpclab.yml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return sc
}

func mustExpand(t testing.TB, sc *Scenario) *Plan {
	t.Helper()
	p, err := Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// samples are what the property tests run over; no test changes them.
var samples = sync.OnceValue(makeSamples)

// makeSamples expands the files of testdata/good and shapes that reach the
// edges of the numbering.
func makeSamples() map[string]*Plan {
	expand := func(sc *Scenario, err error) *Plan {
		if err != nil {
			panic(err)
		}
		p, err := Expand(sc)
		if err != nil {
			panic(err)
		}
		return p
	}
	all := map[string]*Plan{}
	files, _ := filepath.Glob("testdata/good/*.vpclab.yml")
	for _, file := range files {
		all[filepath.Base(file)] = expand(Load(file))
	}
	for name, generate := range map[string]string{
		"one of each":  "{backbone: star, pe: 1, sites: 1, tenants: 1}",
		"ring":         "{backbone: ring, pe: 8, p: 4, sites: 8, tenants: 20, machines: 2}",
		"two-ring":     "{backbone: ring, pe: 3, p: 2, sites: 2, tenants: 2}",
		"star":         "{backbone: star, pe: 5, p: 4, sites: 7, tenants: 2, site-kind: cloud, machines: 3}",
		"mesh":         "{backbone: mesh, pe: 6, p: 5, sites: 3, tenants: 3, overlap: true}",
		"fat tree":     "{backbone: fat-tree, pe: 9, p: 7, sites: 3, tenants: 3}",
		"99 routers":   "{backbone: ring, pe: 60, p: 38, sites: 60, tenants: 1}",
		"100 routers":  "{backbone: ring, pe: 50, p: 49, sites: 50, tenants: 3}",
		"most sites":   "{backbone: star, pe: 1, sites: 250, tenants: 2}",
		"most VPCs":    "{backbone: star, pe: 2, sites: 2, tenants: 250}",
		"big LAN":      "{backbone: star, pe: 1, sites: 1, tenants: 1, machines: 244}",
		"vpls":         "{backbone: ring, pe: 6, p: 3, sites: 9, tenants: 5, machines: 3, service: vpls, site-kind: cloud}",
		"vpls overlap": "{backbone: star, pe: 3, sites: 4, tenants: 3, machines: 2, service: vpls, overlap: true}",
		"vpls of 100":  "{backbone: ring, pe: 50, p: 49, sites: 50, tenants: 3, service: vpls}",
		"no machines":  "{backbone: star, pe: 2, sites: 2, tenants: 1, machines: 0}",
		"no customers": "{backbone: mesh, pe: 3, p: 3, sites: 0, tenants: 0}",
	} {
		all[name] = expand(Parse("test", []byte("name: test\ngenerate: "+generate)))
	}
	return all
}

// eachPlan runs check on all plans.
func eachPlan(t *testing.T, check func(t *testing.T, p *Plan)) {
	for name, p := range samples() {
		t.Run(name, func(t *testing.T) { check(t, p) })
	}
}

func TestNodeNamesAreUnique(t *testing.T) { eachPlan(t, uniqueNames) }

func uniqueNames(t *testing.T, p *Plan) {
	seen := map[string]bool{}
	for _, n := range p.Nodes {
		if seen[n.Name] {
			t.Errorf("two nodes are named %s", n.Name)
		}
		seen[n.Name] = true
	}
	for _, l := range p.Links {
		if !seen[l.A.Node] || !seen[l.B.Node] {
			t.Errorf("link %s ends at a node that is not there", l.Name())
		}
	}
}

func TestInterfaceNamesFitTheKernel(t *testing.T) { eachPlan(t, interfaceNames) }

func interfaceNames(t *testing.T, p *Plan) {
	taken := map[string]string{}
	take := func(node, name, what string) {
		if len(name) == 0 || len(name) > 15 || strings.ContainsAny(name, "/ .:") {
			t.Errorf("%s: %q is no interface name", node, name)
		}
		if slices.Contains(reservedIfnames, name) {
			t.Errorf("%s: %s is the kernel's own", node, name)
		}
		if other := taken[node+" "+name]; other != "" {
			t.Errorf("%s: %s is the name of %s and of %s", node, name, other, what)
		}
		taken[node+" "+name] = what
	}
	for _, n := range p.Nodes {
		for _, b := range n.Bridges {
			take(n.Name, b.Name, "a bridge")
		}
	}
	for _, v := range p.VPCs {
		for _, f := range v.VRFs {
			take(f.PE, f.Name, "a VRF")
		}
		for _, a := range v.Attachments {
			if !a.Joined { // its port comes back under its name
				take(a.PE, a.PEIf, "the circuit of "+a.CE)
			}
		}
	}
	for _, l := range p.Links {
		take(l.A.Node, l.A.Ifname, l.Name())
		take(l.B.Node, l.B.Ifname, l.Name())
	}
}

// TestMACsAreUnique holds it of all that vpclab gives, and within a VPC of
// those that a file gives to its VMs.
func TestMACsAreUnique(t *testing.T) {
	eachPlan(t, uniqueMACs)
}

func uniqueMACs(t *testing.T, p *Plan) {
	seen := map[string]string{}
	take := func(m MAC, vpc, what string) {
		if m[0] != 2 {
			t.Errorf("%s has the MAC %s, which does not begin with 02", what, m)
		}
		key := m.String()
		if m[1] == 0xaa { // chosen
			key += " in " + vpc
		}
		if other := seen[key]; other != "" {
			t.Errorf("%s and %s have the same MAC %s", what, other, key)
		}
		seen[key] = what
	}
	for _, n := range p.Nodes {
		for _, b := range n.Bridges {
			take(b.MAC, "", n.Name+":"+b.Name)
		}
	}
	for _, l := range p.Links {
		if l.Seat != SeatDark { // the same machine once more
			take(l.A.MAC, l.VPC, l.Name()+" A")
		}
		take(l.B.MAC, l.VPC, l.Name()+" B")
	}
}

// TestAddresses holds that core addresses are unique, that LAN addresses are
// unique within their VPC, lie in their LAN and are not its first or last.
func TestAddresses(t *testing.T) { eachPlan(t, addresses) }

func addresses(t *testing.T, p *Plan) {
	seen := map[string]string{}
	take := func(scope string, a netip.Addr, what string) {
		key := scope + " " + a.String()
		if other := seen[key]; other != "" {
			t.Errorf("%s and %s both have %s", what, other, key)
		}
		seen[key] = what
	}
	for _, n := range p.Nodes {
		if n.Loopback.IsValid() {
			take("core", n.Loopback, n.Name)
		}
	}
	for _, l := range p.Links {
		if l.Core {
			take("core", l.A.Addr.Addr(), l.Name())
			take("core", l.B.Addr.Addr(), l.Name())
		}
		routed := l.Core || l.AC && l.A.Bridge == ""
		if routed && (l.A.Addr.Bits() != 31 || l.A.Addr.Masked() != l.B.Addr.Masked() || l.A.Addr.Addr().As4()[3]%2 != 0) {
			t.Errorf("%s: %s and %s are not the even and the odd end of a /31", l.Name(), l.A.Addr, l.B.Addr)
		}
		if l.AC && routed {
			take(l.VPC, l.A.Addr.Addr(), l.Name())
			take(l.VPC, l.B.Addr.Addr(), l.Name())
		}
	}
	for _, v := range p.VPCs {
		for i, a := range v.Attachments {
			for _, o := range v.Attachments[:i] {
				if v.Service == ServiceVPLS && o.Subnet != a.Subnet || v.Service == ServiceL3VPN && o.Subnet.Overlaps(a.Subnet) {
					t.Errorf("%s: %s of %s overlaps %s of %s", v.Name, a.Subnet, a.Site, o.Subnet, o.Site)
				}
			}
			if ce := mustNode(t, p, a.CE); v.Service == ServiceL3VPN {
				take(v.Name, ce.Bridges[0].Addr.Addr(), ce.Name)
			}
			for _, name := range a.Machines {
				m := mustNode(t, p, name)
				take(v.Name, m.Addr, name)
				if !a.Subnet.Contains(m.Addr) || m.Addr == a.Subnet.Addr() || !a.Subnet.Contains(m.Addr.Next()) {
					t.Errorf("%s has %s, no host's address in %s", name, m.Addr, a.Subnet)
				}
			}
		}
	}
}

func mustNode(t testing.TB, p *Plan, name string) *Node {
	t.Helper()
	n, ok := p.Node(name)
	if !ok {
		t.Fatalf("there is no node %s", name)
	}
	return n
}

// TestLabelsTablesAndTargets holds that a router gave out each label once, and
// that RDs and RTs are unique, of the form 2-byte:4-byte, with exports and
// imports apart.
func TestLabelsTablesAndTargets(t *testing.T) {
	eachPlan(t, func(t *testing.T, p *Plan) {
		if highest := labelsAndTargets(t, p); p.MaxLabel() != highest {
			t.Errorf("MaxLabel is %d, the highest label is %d", p.MaxLabel(), highest)
		}
	})
}

// labelsAndTargets returns the highest label.
func labelsAndTargets(t *testing.T, p *Plan) (highest uint32) {
	labels, names := map[string]string{}, map[string]string{}
	give := func(router string, label uint32, what string) {
		if label < 16 || label > 1<<20-1 {
			t.Errorf("%s: %d is no label", what, label)
		}
		key := fmt.Sprintf("%s %d", router, label)
		if labels[key] != "" {
			t.Errorf("%s gave out label %d for %s and for %s", router, label, labels[key], what)
		}
		labels[key] = what
		highest = max(highest, label)
	}
	name := func(kind, s, what string) {
		var asn, n uint32
		if k, err := fmt.Sscanf(s, "%d:%d", &asn, &n); k != 2 || asn != p.ASN || asn > 65535 {
			t.Errorf("%s of %s is %q (%v)", kind, what, s, err)
		}
		if other := names[kind+s]; other != "" {
			t.Errorf("%s %s is that of %s and of %s", kind, s, what, other)
		}
		names[kind+s] = what
	}
	for _, lsp := range p.LSPs {
		for _, h := range lsp.Hops {
			if h.InLabel != 0 {
				give(h.Node, h.InLabel, "the LSP to "+lsp.Egress)
			}
		}
	}
	for _, v := range p.VPCs {
		for _, f := range v.VRFs {
			give(f.PE, f.Label, "VPC "+v.Name)
			name("RD ", f.RD, v.Name+" at "+f.PE)
		}
		for _, s := range v.VSIs {
			for j := range s.BlockSize {
				give(s.PE, s.LabelBase+uint32(j), fmt.Sprintf("VPC %s, VE %d", v.Name, s.BlockOffset+j))
			}
			name("RD ", s.RD, v.Name+" at "+s.PE)
		}
		if len(v.Attachments) > 0 {
			name("RT ", v.Attachments[0].ImportRT, "import of "+v.Name)
		}
		for _, a := range v.Attachments {
			name("RT ", a.ExportRT, "export of "+v.Name+" at "+a.Site)
			if a.ImportRT != v.Attachments[0].ImportRT {
				t.Errorf("%s imports %s at %s and %s at %s; want one target a VPC", v.Name, a.ImportRT, a.Site, v.Attachments[0].ImportRT, v.Attachments[0].Site)
			}
		}
	}
	for _, a := range p.Adjacencies {
		give(a.Node, a.Label, "on to "+a.Next)
	}
	for _, r := range p.Reservations {
		for _, d := range r.Directions {
			give(d.To, d.Label, r.Name)
		}
	}
	return highest
}

// TestVPLS holds what a vpls has where an l3vpn has something else.
func TestVPLS(t *testing.T) {
	p := samples()["vpls.vpclab.yml"]
	acme, _ := p.VPC("acme")
	if v, ok := acme.VSI("pe2"); !ok || v != (VSI{
		PE: "pe2", Name: "vsi-acme", MAC: MAC{2, 0, 1, 0, 0, 2}, RD: "65000:1002",
		VEID: 2, BlockOffset: 1, BlockSize: 3, LabelBase: 20101,
	}) {
		t.Errorf("VSI at pe2: %+v", v)
	}
	if diff := cmp.Diff([]Bridge{
		{Name: "vsi-acme", MAC: MAC{2, 0, 1, 0, 0, 3}, Ageing: 300 * time.Second},
		{Name: "vsi-globex", MAC: MAC{2, 0, 2, 0, 0, 3}, Ageing: 20 * time.Second},
	}, mustNode(t, p, "pe3").Bridges, cmpAddrs); diff != "" {
		t.Errorf("bridges of pe3: %s", diff)
	}
	ce := mustNode(t, p, "globex-hq-ce")
	if ce.Forward || ce.Routes != nil || ce.Bridges[0].Addr.IsValid() || ce.Bridges[0].Ageing != 20*time.Second {
		t.Errorf("the CE is no plain bridge: %+v", ce)
	}
	for _, l := range p.LinksOf("globex-hq-ce") {
		if l.AC && (l.A.Bridge != "vsi-globex" || l.B.Bridge != "lan" || l.A.VRF != "" || l.A.Addr.IsValid() || l.B.Addr.IsValid()) {
			t.Errorf("circuit %+v", l)
		}
		if l.MTU != 9000 {
			t.Errorf("%s has MTU %d", l.Name(), l.MTU)
		}
	}
	for _, a := range acme.Attachments {
		if a.VSI != "vsi-acme" || a.VRF != "" || a.PEAddr.IsValid() || a.CEAddr.IsValid() || a.Subnet != netip.MustParsePrefix("10.1.0.0/16") {
			t.Errorf("attachment %+v", a)
		}
	}
	for name, want := range map[string]string{
		"acme-texas-2":   "10.1.1.12/16 02:00:01:01:00:02 2",
		"log":            "10.1.1.13/16 02:00:01:01:00:03 3",
		"shop":           "10.1.0.7/16 02:aa:00:00:00:01 1",
		"acme-hq-1":      "10.1.3.11/16 02:00:01:03:00:01 1",
		"globex-hq-2":    "10.1.0.3/28 02:00:02:03:00:02 2",
		"globex-texas-1": "10.1.0.4/28 02:00:02:01:00:01 1",
		"db":             "10.1.0.7/28 02:aa:00:00:00:01 3",
		"cache":          "10.1.0.6/28 02:00:02:01:00:04 4", // .7 is chosen
	} {
		n, l := mustNode(t, p, name), p.LinksOf(name)[0]
		if got := fmt.Sprint(l.A.Addr, " ", l.A.MAC, " ", n.Number); got != want || n.Routes != nil || n.IPv6 != (n.VPC == "acme") {
			t.Errorf("%s has %s, want %s: %+v", name, got, want, n)
		}
	}
	site, _ := p.Site("texas")
	if diff := cmp.Diff(SitePlan{Name: "texas", Index: 1, Kind: "cloud", PE: "pe1", Hosts: []string{"texas-h1", "texas-h2"}, Machines: 2}, site); diff != "" {
		t.Errorf("site: %s", diff)
	}
	less := p.Detach(func(a Attachment) bool { return a.VPC == "globex" && a.Site == "hq" })
	globex, _ := less.VPC("globex")
	if b := mustNode(t, less, "pe3").Bridges; len(globex.VSIs) != 1 || len(b) != 1 || b[0].Name != "vsi-acme" {
		t.Errorf("a site that left leaves %+v and %+v", globex.VSIs, b)
	}
	if b := mustNode(t, p.Restrict(func(Attachment) bool { return false }), "pe3").Bridges; len(b) != 0 {
		t.Errorf("nothing kept leaves %+v", b)
	}
}

// TestLSPs walks each LSP from each PE by labels alone, as packets go: the
// label that leaves a router is the one that the next gave out, the last
// router but one pops, and the egress is reached.
func TestLSPs(t *testing.T) { eachPlan(t, lspsByLabels) }

func lspsByLabels(t *testing.T, p *Plan) {
	ends := coreEndsOf(p)
	for _, lsp := range p.LSPs {
		for _, from := range p.OfKind(KindPE) {
			if _, reached := lsp.Hop(from.Name); from.Name == lsp.Egress || !reached && len(p.failures()) > 0 {
				continue
			}
			walk(t, p, ends, lsp, from.Name)
		}
	}
}

func walk(t *testing.T, p *Plan, ends map[string]Endpoint, lsp LSP, from string) {
	t.Helper()
	crossed := []string{from}
	for at, label := from, uint32(0); at != lsp.Egress; {
		hop, ok := lsp.Hop(at)
		if !ok || len(crossed) > len(p.Nodes) {
			t.Fatalf("LSP %s to %s is lost: %v", from, lsp.Egress, crossed)
		}
		if label != 0 && hop.InLabel != label {
			t.Errorf("LSP %s to %s: label %d reaches %s, which gave out %d", from, lsp.Egress, label, at, hop.InLabel)
		}
		next := linkTo(t, ends, at, hop.Dev, hop.Via)
		if next != hop.Next {
			t.Errorf("LSP to %s at %s: %s via %s leads to %s, not to %s", lsp.Egress, at, hop.Dev, hop.Via, next, hop.Next)
		}
		if (next == lsp.Egress) != (hop.OutLabel == 0) {
			t.Errorf("LSP to %s at %s: out label %d towards %s", lsp.Egress, at, hop.OutLabel, next)
		}
		at, label = next, hop.OutLabel
		crossed = append(crossed, at)
	}
	if got, err := p.Path(from, lsp.Egress); err != nil || !slices.Equal(got, crossed) {
		t.Errorf("Path(%s, %s) = %v, %v; the packets go %v", from, lsp.Egress, got, err, crossed)
	}
}

// coreEndsOf maps "node interface" to the far end of the core link there.
func coreEndsOf(p *Plan) map[string]Endpoint {
	ends := map[string]Endpoint{}
	for _, l := range p.Links {
		if l.Core {
			ends[l.A.Node+" "+l.A.Ifname], ends[l.B.Node+" "+l.B.Ifname] = l.B, l.A
		}
	}
	return ends
}

// linkTo is the node that a core link at node's interface leads to.
func linkTo(t *testing.T, ends map[string]Endpoint, node, ifname string, via netip.Addr) string {
	t.Helper()
	far := ends[node+" "+ifname]
	if far.Addr.Addr() != via {
		t.Fatalf("%s has no core link %s to %s", node, ifname, via)
	}
	return far.Node
}

// TestCoreRoutes follows the plain routes: from each router to each loopback,
// with the router's own as source, without a loop.
func TestCoreRoutes(t *testing.T) {
	eachPlan(t, func(t *testing.T, p *Plan) {
		routers := p.Routers()
		if len(routers) > 60 {
			t.Skip("the smaller plans show it")
		}
		if len(p.CoreRoutes) != len(routers)*max(len(routers)-1, 0) {
			t.Errorf("%d routes for %d routers", len(p.CoreRoutes), len(routers))
		}
		ends, next := coreEndsOf(p), map[string]CoreRoute{}
		for _, r := range p.CoreRoutes {
			next[r.Node+" "+r.Dst.Addr().String()] = r
		}
		for _, from := range routers {
			for _, to := range routers {
				at := from.Name
				for steps := 0; at != to.Name; steps++ {
					r, ok := next[at+" "+to.Loopback.String()]
					if !ok || steps > len(routers) {
						t.Fatalf("no way from %s to %s: stuck at %s", from.Name, to.Name, at)
					}
					if r.Src != mustNode(t, p, at).Loopback {
						t.Errorf("%s sends from %s", at, r.Src)
					}
					at = linkTo(t, ends, at, r.Dev, r.Via)
				}
			}
		}
	})
}

func TestShortestPaths(t *testing.T) {
	p := mustExpand(t, mustParse(t, `
name: diamond
topology:
  backbone:
    pe: [a, z]
    p: [p1, p2, p3]
    links:
      - {between: [a, p2]}
      - {between: [a, p1]}
      - {between: [p1, z]}
      - {between: [p2, z]}
      - {between: [a, p3], cost: 1}
      - {between: [p3, z], cost: 50}
`))
	for _, want := range [][]string{{"a", "p1", "z"}, {"z", "p1", "a"}} {
		got, err := p.Path(want[0], want[2])
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("path %v (%v); of equal ones the lower number is taken: %v", got, err, want)
		}
	}
	if _, err := p.Path("a", "p1"); err == nil {
		t.Error("there is a path to a router that is no PE")
	}
}

// TestNumbersByEye holds the numbers that the documentation promises.
func TestNumbersByEye(t *testing.T) {
	sc, err := Load("testdata/good/overlap.vpclab.yml")
	if err != nil {
		t.Fatal(err)
	}
	p := mustExpand(t, sc)
	globex, _ := p.VPC("globex")
	vrf, _ := globex.VRF("pe-il")
	lsp, _ := p.LSP("pe-ca")
	hop, _ := lsp.Hop("p1")
	shop, db := mustNode(t, p, "shop"), mustNode(t, p, "db")
	hq := globex.Attachments[slices.IndexFunc(globex.Attachments, func(a Attachment) bool { return a.Site == "acme-hq" })]
	for _, c := range []struct{ what, got, want string }{
		{"loopback of PE 3", mustNode(t, p, "pe-ca").Loopback.String(), "10.255.0.3"},
		{"loopback of P 2", mustNode(t, p, "p2").Loopback.String(), "10.255.1.2"},
		{"loopback of the reflector", mustNode(t, p, "rr").Loopback.String(), "10.255.2.1"},
		{"core link 1", p.Links[0].A.Addr.String() + " " + p.Links[0].B.MAC.String(), "10.254.0.2/31 02:ff:00:01:00:02"},
		{"name of a link", p.Links[0].Name(), "pe-tx:p1--p1:pe-tx"},
		{"label of router 4 for PE 3", fmt.Sprint(hop.InLabel), "10403"},
		{"label of PE 2 for VPC 2", fmt.Sprint(vrf.Label), "20202"},
		{"table", fmt.Sprint(vrf.Table, " ", vrf.Name), "1002 vrf-globex"},
		{"RD", vrf.RD, "64512:2002"},
		{"targets", hq.ExportRT + " " + hq.ImportRT, "64512:2003 64512:1002000"},
		{"circuit", hq.PEAddr.String() + " " + hq.CEAddr.String() + " " + hq.PEIf, "169.254.3.0/31 169.254.3.1 globex-3"},
		{"first VM in a chosen subnet, after 3 machines", shop.Addr.String() + " on " + shop.Host, "10.1.1.5 on texas-h2"},
		{"first VM where no machines are", db.Addr.String() + " on " + db.Host, "10.1.3.11 on illinois-h1"},
		{"machine 2 in a default subnet", mustNode(t, p, "acme-acme-hq-2").Addr.String(), "10.1.3.12"},
		{"MAC of machine 2 of VPC 1 at site 3", p.LinksOf("acme-acme-hq-2")[0].A.MAC.String(), "02:00:01:03:00:02"},
		{"gateway", mustNode(t, p, "acme-texas-ce").Bridges[0].Addr.String(), "10.1.1.1/24"},
		{"VMs are spread over the hosts", mustNode(t, p, "acme-texas-2").Host + mustNode(t, p, "acme-texas-3").Host, "texas-h2texas-h1"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %s, want %s", c.what, c.got, c.want)
		}
	}
	if q := p.Links[0].AtoB.Queue; q != 100+1038 { // 4 × 465 Mbit/s × 6.7 ms / 12,000 bit
		t.Errorf("queue of %d packets", q)
	}
	if l := p.Links[1]; l.AtoB.Rate != 10e6 || l.BtoA.Rate != 1e9 || l.BtoA.Loss != 0.5 || l.AtoB.Delay != l.BtoA.Delay {
		t.Errorf("directions: %+v and %+v", l.AtoB, l.BtoA)
	}
}

func TestExpandIsTheSameEachTime(t *testing.T) {
	for name, again := range makeSamples() {
		if !reflect.DeepEqual(samples()[name], again) {
			t.Errorf("%s: %s", name, cmp.Diff(samples()[name], again, cmpAddrs))
		}
	}
}

// TestPlanInJSON holds that a plan survives being written and read.
func TestPlanInJSON(t *testing.T) {
	eachPlan(t, func(t *testing.T, p *Plan) {
		if len(p.Routers()) > 60 {
			t.Skip("the smaller plans show it")
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var q Plan
		if err := json.Unmarshal(b, &q); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(p, &q) {
			t.Error(cmp.Diff(p, &q, cmpAddrs))
		}
	})
}

// TestScenarioBuiltInGo holds that a scenario which no file was read for gets
// the same checks and defaults.
func TestScenarioBuiltInGo(t *testing.T) {
	sc := &Scenario{
		Name: "built",
		Topology: Topology{
			Backbone: Backbone{PE: []string{"pe1", "pe2"}, Links: []BackboneLink{{Between: []string{"pe1", "pe2"}, Impairment: Impairment{Delay: 5e6}}}},
			Sites: Map[Site]{
				{"hq", Site{Kind: "enterprise", PE: "pe1", Machines: 2}},
				{"lab", Site{Kind: "cloud", PE: "pe2"}},
			},
		},
		VPCs: Map[VPC]{{"acme", VPC{Service: "l3vpn", Subnets: Map[Prefix]{{"hq", netip.MustParsePrefix("10.0.0.0/24")}, {"lab", netip.MustParsePrefix("10.0.1.0/24")}}}}},
	}
	p := mustExpand(t, sc)
	if p.ASN != 65000 || p.CoreMTU != 1600 || len(p.Machines()) != 2 || len(p.OfKind(KindHost)) != 1 {
		t.Errorf("defaults are not in: %+v", p)
	}
	if p.Links[0].AtoB.Delay.String() != "5ms" {
		t.Errorf("the link lost its delay: %+v", p.Links[0])
	}
	sc.Topology.Sites[0].Value.PE = "pe3"
	_, err := Expand(sc)
	if _, ok := err.(Diagnostics); !ok || !strings.Contains(err.Error(), `there is no PE "pe3"`) {
		t.Errorf("a wrong PE gives %v", err)
	}
}

// TestChangedScenario holds that what was read and then changed is checked.
func TestChangedScenario(t *testing.T) {
	sc := mustParse(t, "name: test\ngenerate: {backbone: star, pe: 2, sites: 2, tenants: 2}\n")
	sc.Generate.Tenants = 5
	if p := mustExpand(t, sc); len(p.VPCs) != 5 {
		t.Errorf("%d VPCs", len(p.VPCs))
	}
	sc.Generate.Machines = 5000
	if _, err := Expand(sc); err == nil || !strings.Contains(err.Error(), "test.vpclab.yml:2:1") {
		t.Errorf("too many machines give %v", err)
	}
}
