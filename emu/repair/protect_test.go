package repair_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/emu/repair"
	"github.com/vpclab/vpclab/topo"
)

const protected = `
name: protected
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    recovery: {detect: [carrier]}
    routers: {%ROUTERS%}
    links:
      - {between: [pe1, p1], rate: 100mbit}
      - {between: [p1, pe2], rate: 100mbit}
      - {between: [pe1, p2], rate: 100mbit, cost: 20}
      - {between: [p2, pe2], rate: 100mbit, cost: 20}
      - {between: [p2, pe3], rate: 100mbit}
      - {between: [p1, pe3], rate: 100mbit, cost: 50}
  sites:
    texas: {kind: cloud, pe: pe1, machines: 2}
    hq: {kind: enterprise, pe: pe3, machines: 2}
vpcs:
  acme: {service: l3vpn, sites: [texas, hq]}
reservations:
  straight: {vpc: acme, between: [texas, hq], rate: 1mbit}
  round: {vpc: acme, between: [acme-texas-1, hq], rate: 1mbit, path: [pe1, p1, pe2, p2, pe3]}
`

// What the repair process takes out of the kernel is what the fabric put there,
// and no more than a stack of labels takes its place.
func TestProtectionsReplaceWhatIsCompiled(t *testing.T) {
	for name, routers := range map[string]string{"ours": "", "mixed": "pe2: {routing: frr}"} {
		t.Run(name, func(t *testing.T) {
			plan := expand(t, routers)
			st := fabric.Compile(plan)
			mpls.Compile(plan, &st)
			mplsEntries, routes := 0, 0
			for _, n := range plan.OfKind(topo.KindPE, topo.KindP) {
				for _, p := range repair.Protections(plan, n.Name) {
					switch {
					case p.MPLS != nil && p.MPLSBy != nil && p.IP == nil && p.IPBy == nil:
						mplsEntries++
						if !slices.Contains(st.Nodes[n.Name].MPLS, *p.MPLS) {
							t.Errorf("%s: no entry is like %+v", n.Name, *p.MPLS)
						}
					case p.IP != nil && p.IPBy != nil && p.MPLS == nil && p.MPLSBy == nil:
						routes++
						if !slices.Contains(st.Nodes[n.Name].Routes, *p.IP) {
							t.Errorf("%s: no route is like %+v", n.Name, *p.IP)
						}
					default:
						t.Errorf("%s: neither an entry nor a route: %+v", n.Name, p)
					}
				}
			}
			if mplsEntries < 10 || routes < 10 {
				t.Errorf("%d entries and %d routes are protected", mplsEntries, routes)
			}
		})
	}
}

func expand(t *testing.T, routers string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("protected.vpclab.yml", []byte(strings.Replace(protected, "%ROUTERS%", routers, 1)))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
