package frr

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/topo"
)

var update = flag.Bool("update", false, "write the golden files anew")

// backbone has an FRR PE with two sites in one VRF, a neighbour that is a PE,
// a P and the reflector behind it.
const backbone = `
name: r
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    rr: p1
    links:
      - {between: [pe1, pe2]}
      - {between: [pe2, p1], cost: 7}
      - {between: [p1, pe3]}
  sites:
    hq: {kind: enterprise, pe: pe2}
    shop: {kind: enterprise, pe: pe2}
    plant: {kind: enterprise, pe: pe3}
    office: {kind: enterprise, pe: pe1}
vpcs:
  acme: {service: l3vpn, sites: [hq, shop, plant, office]}
  globex: {service: l3vpn, subnets: {hq: 10.1.1.0/24, office: 10.1.4.0/24}}
`

func planOf(t *testing.T) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("r.vpclab.yml", []byte(backbone))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// whole is the configuration of all daemons of a router.
func whole(c bgp.Config) string {
	var b strings.Builder
	told := render(&c)
	for _, d := range daemons {
		if blocks, ok := told[d]; ok {
			b.WriteString("! " + d + "\n" + text(blocks))
		}
	}
	return b.String()
}

func TestRender(t *testing.T) {
	plan := planOf(t)
	all := bgp.Configs(plan.WithRouting(topo.RoutingFRR))
	mixed := bgp.Configs(plan.WithRouting(topo.RoutingFRR, "pe2"))
	for name, c := range map[string]bgp.Config{"all-pe2": all["pe2"], "all-p1": all["p1"], "mixed-pe2": mixed["pe2"]} {
		if c.Node == "" {
			t.Errorf("%s has no configuration", name)
			continue
		}
		path := filepath.Join("testdata", name+".golden")
		got := whole(c)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, ok := mixed["p1"]; ok {
		t.Error("a P of a mixed backbone has a control plane: its labels are the controller's")
	}
	if _, ok := render(ptr(all["p1"]))[bgpd]; ok {
		t.Error("a P has a bgpd")
	}
}

func ptr[T any](v T) *T { return &v }
