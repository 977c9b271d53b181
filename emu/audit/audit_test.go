package audit

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

var update = flag.Bool("update", false, "write the golden file anew; then read it")

func TestWhoMayReachWhom(t *testing.T) {
	plan := planOf(t, lans).Detach(func(a topo.Attachment) bool { return a.VPC == "red" && a.Site == "lab" })
	g := newGround(plan)
	at := map[string]traffic.Endpoint{}
	for _, m := range g.machines {
		at[m.Name] = traffic.Endpoint{Name: m.Name, VPC: m.VPC, Site: m.Site, Addr: m.Addr}
	}
	for _, c := range []struct {
		from, to      string
		reach, oneLAN bool
	}{
		{"red-hq-1", "red-hq-2", true, true},
		{"red-hq-1", "red-cloud-1", true, true},
		{"red-hq-1", "red-lab-1", false, false}, // it has left
		{"red-hq-1", "blue-hq-1", false, false},
		{"green-hq-1", "green-hq-2", true, true},
		{"green-hq-1", "green-cloud-1", true, false}, // routed
		{"green-cloud-1", "green-cloud-2", true, true},
	} {
		if got := g.reach(at[c.from], at[c.to]); got != c.reach {
			t.Errorf("%s may reach %s by IP: %v", c.from, c.to, got)
		}
		if got := g.oneLAN(at[c.from], at[c.to]); got != c.oneLAN {
			t.Errorf("%s and %s are on one LAN: %v", c.from, c.to, got)
		}
	}
}

func TestTransitIsTheLongestWay(t *testing.T) {
	text := strings.Replace(twins, "{between: [p1, pe2], delay: 1ms}", "{between: [p1, pe2], delay: 20ms, jitter: 1ms}", 1)
	text = strings.ReplaceAll(text, "machines: 2}", "machines: 2, access: {rate: 10mbit, delay: 5ms, queue: 20}}")
	g := newGround(planOf(t, text))
	if got, want := g.transit(), minTransit+1*time.Millisecond+24*time.Millisecond+2*5*time.Millisecond; got != want {
		t.Errorf("got %v, want %v: backbone with four deviations of jitter, and two access links", got, want)
	}
	if l := g.lans[member{"red", "hq"}]; l.queue != 20 {
		t.Errorf("queue %d, want 20", l.queue)
	}
}

// framed is a probe with labels over a packet, as seen at a station.
func framed(dst string, labels ...uint32) []byte {
	etherType := uint16(0x0800)
	if len(labels) > 0 {
		etherType = 0x8847
	}
	b := traffic.AppendEthernet(nil, topo.MAC{2}, topo.MAC{2}, etherType)
	b = traffic.AppendLabels(b, labels...)
	return traffic.AppendIPv4(b, traffic.Protocol, netip.MustParseAddr("10.0.1.11"), netip.MustParseAddr(dst), 16)
}

func TestWhatASightingMeans(t *testing.T) {
	g := newGround(planOf(t, twins))
	at := func(node, ifname string) traffic.Station { return traffic.Station{Node: node, Ifname: ifname} }
	for _, c := range []struct {
		what    string
		station traffic.Station
		frame   []byte
		place   place
		vpc     string
	}{
		{"own machine", at("red-hq-1", "eth0"), framed("10.0.1.11"), placeOwn, ""},
		{"own CE", at("red-hq-ce", "wan"), framed("10.0.1.11"), placeOwn, ""},
		{"own circuit", at("pe1", "red-1"), framed("10.0.1.11"), placeEntry, ""},
		{"another's machine", at("blue-hq-1", "eth0"), framed("10.0.1.11"), placeLeak, "blue"},
		{"another's circuit", at("pe1", "blue-1"), framed("10.0.1.11"), placeLeak, "blue"},
		{"own label", at("p1", "pe1"), framed("10.0.2.11", 10302, 20102), placeCore, ""},
		{"own label alone", at("pe2", "p1"), framed("10.0.2.11", 20102), placeCore, ""},
		{"another's label", at("p1", "pe1"), framed("10.0.2.11", 10302, 20202), placeLeak, "blue"},
		{"transport alone", at("p1", "pe1"), framed("10.0.2.11", 10302), placeLeak, ""},
		{"no label", at("p1", "pe1"), framed("10.0.2.11"), placeLeak, ""},
		{"a foreign control plane's label", at("p1", "pe1"), framed("10.0.2.11", 16), placeNone, ""},
		{"own gateway", at("pe1", ""), framed("169.254.1.0")[14:], placeOwn, ""},
		{"a circuit of another PE", at("pe1", ""), framed("169.254.2.0")[14:], placeLeak, ""},
		{"loopback", at("pe1", ""), framed("10.255.0.1")[14:], placeLeak, ""},
		{"reflector", at("rr", ""), framed("10.255.2.1")[14:], placeLeak, ""},
	} {
		if got := g.judge("red", c.station, c.frame); got.place != c.place || got.vpc != c.vpc {
			t.Errorf("%s: %+v; want %d of %q", c.what, got, c.place, c.vpc)
		}
	}
}

func TestAttacksAreOnOthersOnly(t *testing.T) {
	for _, text := range []string{twins, strangers, lans} {
		g := newGround(planOf(t, text))
		own := map[topo.MAC]map[string]bool{}
		for _, m := range g.machines {
			if own[m.mac] == nil {
				own[m.mac] = map[string]bool{}
			}
			own[m.mac][m.VPC] = true
		}
		sources, kinds := g.hostile(), map[Kind]int{}
		for i := range sources {
			s := &sources[i]
			c := &collector{every: 1}
			g.attacks(s, c)
			for _, p := range c.kept {
				kinds[p.kind]++
				for _, l := range p.stack[:p.labels] {
					if g.labels[l].vpc == s.vpc {
						t.Errorf("%s: %s: an attack with its own VPC's label", s.node, p.what())
					}
				}
				if p.kind == KindSpoofedMAC && own[p.src][s.vpc] {
					t.Errorf("%s: %s: that would rob a machine of its own VPC", s.node, p.what())
				}
				if p.kind == KindProvider && g.has(s.vpc, p.ipDst) {
					t.Errorf("%s: %s: that is an address of its own VPC", s.node, p.what())
				}
			}
			// A third of them is every third.
			third := &collector{every: 3}
			g.attacks(s, third)
			if n := (len(c.kept) + 2) / 3; len(third.kept) != n || third.seen != len(c.kept) {
				t.Errorf("%s: %d of %d, want %d", s.node, len(third.kept), third.seen, n)
			}
		}
		for _, k := range attackKinds {
			if kinds[k] == 0 {
				t.Errorf("no attack %s in\n%s", k, text)
			}
		}
	}
}

func TestLabelsOfAllKindsAreTried(t *testing.T) {
	plan := planOf(t, lans)
	plan.Adjacencies = []topo.Adjacency{{Node: "p1", Label: 5002, Next: "pe2"}}
	plan.Reservations = []topo.ReservationPlan{{Name: "gold", VPC: "blue", Directions: []topo.ReservedPath{{From: "pe1", To: "pe2", Label: 6001}}}}
	g := newGround(plan)
	hq := g.lans[member{"red", "hq"}]
	s := g.edgeSource(hq, hq.edges[0])
	c := &collector{every: 1}
	g.attacks(&s, c)
	tried := map[string]bool{}
	for _, p := range c.kept {
		if p.labels > 0 {
			tried[labelWords(p.stack[:p.labels])] = true
		}
	}
	for _, want := range []string{"label 5002", "label 6001", "label 10402", "label 20201", "label 20302", "label 10402/20302", "label 5002/6001", "label 10401/20202", "label 0/20301"} {
		if !tried[want] {
			t.Errorf("%s was not tried, but %v", want, slices.Sorted(func(yield func(string) bool) {
				for l := range tried {
					if !yield(l) {
						return
					}
				}
			}))
		}
	}
}

func TestLabelsOfAForeignControlPlaneAreGuessed(t *testing.T) {
	g := newGround(planOf(t, twins).WithRouting(topo.RoutingFRR))
	hq := g.lans[member{"red", "hq"}]
	s := g.edgeSource(hq, hq.edges[0])
	c := &collector{every: 1}
	g.attacks(&s, c)
	tried := map[uint32]bool{}
	for _, p := range c.kept {
		if p.kind == KindLabel {
			tried[p.stack[0]] = true
		}
	}
	if !tried[16] || !tried[127] || tried[15] || tried[128] {
		t.Errorf("16 to 127 were to be tried: %v", tried)
	}
	if seen := g.judge("red", traffic.Station{Node: "p1", Ifname: "pe1"}, framed("10.0.2.11", 17, 18)); seen.place != placeNone {
		t.Errorf("whose label 18 is, is not known: %+v", seen)
	}
}

func TestTheWayOfAProbe(t *testing.T) {
	g := newGround(planOf(t, twins))
	tr := &tracer{g: g}
	hq := g.lans[member{"red", "hq"}]
	s := g.edgeSource(hq, hq.edges[0])
	v := func(node, ifname string, at int64, out, leak bool, labels ...uint32) view {
		return view{Station: traffic.Station{Node: node, Ifname: ifname}, at: at, out: out, leak: leak, labels: labels}
	}
	// All in one tick of the clock, and in no order.
	c := tr.crossing(&s, []view{
		v("blue-hq-ce", "wan", 5, false, true), v("pe1", "blue-1", 5, true, true), v("pe1", "red-1", 5, false, false, 20201),
	})
	if c.Node != "pe1" || c.Entered != "pe1:red-1 (circuit of red at hq) with label 20201 (blue at pe1)" || c.Left != "pe1:blue-1 (circuit of blue at hq) unlabelled" {
		t.Errorf("%+v", c)
	}
	// A cable that the plan does not have.
	c = tr.crossing(&s, []view{v("pe1", "red-1", 5, false, false), v("blue-hq-1", "eth0", 6, false, true)})
	if c.Node != "blue-hq-1" || c.Entered == "" || c.Left != "" {
		t.Errorf("%+v", c)
	}
	if c = tr.crossing(&s, []view{v("pe1", "red-1", 5, false, false)}); c.Node != "" || c.Why == "" {
		t.Errorf("%+v", c)
	}
}

func TestReportText(t *testing.T) {
	r := &Report{
		Lab: "small", Machines: 4, VPCs: 2, Sites: 1,
		IP: Matrix{
			Endpoints: []Endpoint{{Name: "a-1", VPC: "a"}, {Name: "b-1", VPC: "b"}, {Name: "a-2", VPC: "a"}, {Name: "b-2", VPC: "b"}},
			Cells:     []string{".=Af", "=.fa", "Lf.=", "fA=."}, Allowed: 4, Reached: 3, Forbidden: 6, Leaks: 1, Sent: 20,
		},
		Attacks: []Attack{{Kind: KindLabel, Sources: 4, Tried: 100, Entered: 90, Stayed: 10, Leaked: 1}},
		Leaks: []Leak{{
			Kind: KindLabel, From: "ce-a", VPC: "a", What: "label 20201 over a packet", To: "b-1", ToVPC: "b",
			Crossed: Crossing{Node: "pe1", Entered: "pe1:a-1 (circuit of a at s)", Left: "pe1:b-1 (circuit of b at s)"},
		}, {
			Kind: KindProvider, From: "ce-a", VPC: "a", What: "a packet", To: "pe1", Seen: "delivered to pe1, which has 10.255.0.1", Crossed: Crossing{Why: "not looked for"},
		}},
		Unreached: []Pair{{By: "ip", From: "b-1", To: "b-2", Seen: "b-1 -> b-2: nothing arrived"}},
		Notes:     []string{"something was left out"},
		Seconds:   Seconds{All: 2, IP: 1},
	}
	r.Frames = r.IP
	var b bytes.Buffer
	r.Text(&b)
	golden := filepath.Join("testdata", "report.golden")
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
}

func TestALargeMatrixIsShownByVPC(t *testing.T) {
	m := Matrix{}
	const n = maxRows + 2
	for i := range n {
		m.Endpoints = append(m.Endpoints, Endpoint{VPC: []string{"a", "b"}[i%2]})
		row := bytes.Repeat([]byte{'f'}, n)
		for j := i % 2; j < n; j += 2 {
			row[j] = 'A'
		}
		row[i] = '.'
		m.Cells = append(m.Cells, string(row))
	}
	leaky := []byte(m.Cells[4])
	leaky[9] = 'L'
	m.Cells[4] = string(leaky)
	names, rows := m.compact()
	if !slices.Equal(names, []string{"a", "b"}) || !slices.Equal(rows, []string{"AL", "fA"}) {
		t.Errorf("%v %v", names, rows)
	}
}
