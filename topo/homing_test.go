package topo

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// homedPlan is that of operations with bypasses, and with second PEs for a
// cloud and an enterprise.
func homedPlan(t testing.TB) *Plan {
	return mustExpand(t, mustParse(t, strings.NewReplacer(
		"hq: {kind: enterprise, pe: pe3,", "hq: {kind: enterprise, pe: pe3, backup-pe: pe2,",
		"illinois: {kind: cloud, pe: pe2,", "illinois: {kind: cloud, pe: pe2, backup-pe: pe3,",
		"    links:\n", "    "+repairing+"\n    links:\n").Replace(operationsSource)))
}

func attachmentOf(t testing.TB, p *Plan, vpc, site string) Attachment {
	t.Helper()
	v, ok := p.VPC(vpc)
	if !ok {
		t.Fatalf("there is no VPC %s", vpc)
	}
	i := slices.IndexFunc(v.Attachments, func(a Attachment) bool { return a.Site == site })
	if i < 0 {
		t.Fatalf("%s is not at %s", vpc, site)
	}
	return v.Attachments[i]
}

func TestSiteWithTwoPEs(t *testing.T) {
	p := homedPlan(t)
	sound(t, p)
	a := attachmentOf(t, p, "globex", "hq")
	both := a.Circuits()
	if got, want := fmt.Sprint(both), "[{pe3 globex-3 wan vrf-globex  169.254.3.0/31 169.254.3.1 200} {pe2 globex-3 wan2 vrf-globex  169.254.3.2/31 169.254.3.3 100}]"; got != want {
		t.Errorf("circuits\n%s, want\n%s", got, want)
	}
	ce, _ := p.Node(a.CE)
	if got, want := fmt.Sprint(ce.Routes), "[{0.0.0.0/0 169.254.3.0 wan 10} {0.0.0.0/0 169.254.3.2 wan2 20}]"; got != want {
		t.Errorf("the CE leads to %s, want %s", got, want)
	}
	v, _ := p.VPC("globex")
	for _, pe := range []string{"pe1", "pe2", "pe3"} {
		if _, ok := v.VRF(pe); !ok {
			t.Errorf("%s has no VRF", pe)
		}
	}
	var macs []string
	closed := 0
	for _, l := range p.Links {
		if l.AC && l.Site == "hq" && l.VPC == "acme" {
			macs = append(macs, l.A.MAC.String(), l.B.MAC.String())
			if l.Closed {
				closed++
				if l.A.Node != "pe2" || l.A.Bridge == "" {
					t.Errorf("%s is closed", l.Name())
				}
			}
		} else if l.Closed && l.VPC == "globex" {
			t.Errorf("%s of an l3vpn is closed", l.Name())
		}
	}
	if got := strings.Join(macs, " "); got != "02:00:01:03:f0:00 02:00:01:03:f0:01 02:00:01:03:f0:02 02:00:01:03:f0:03" || closed != 1 {
		t.Errorf("%d closed; MACs %s", closed, got)
	}
}

// The numbers of a site with one PE do not depend on there being a second.
func TestSecondPEsChangeNoNumbers(t *testing.T) {
	one, two := operationsPlan(t).WithRecovery(nil), homedPlan(t).WithRecovery(nil)
	for _, l := range one.Links {
		if !slices.ContainsFunc(two.Links, func(m Link) bool { return m == l }) {
			t.Errorf("%s is another with second PEs", l.Name())
		}
	}
	for _, n := range one.Nodes {
		m, ok := two.Node(n.Name)
		if ok && n.Kind != KindCE && n.Kind != KindPE { // which have other routes, and bridges
			same(t, n.Name, &Plan{Nodes: []Node{n}}, &Plan{Nodes: []Node{*m}})
		} else if !ok {
			t.Errorf("%s is gone", n.Name)
		}
	}
}

func TestLeaveAndJoinWithTwoPEs(t *testing.T) {
	p := homedPlan(t)
	for _, vpc := range []string{"acme", "globex"} {
		apart := do(t, p, Operation{Do: "leave", VPC: vpc, Site: "hq"})
		sound(t, apart)
		for _, l := range apart.Links {
			if l.AC && l.VPC == vpc && l.Site == "hq" {
				t.Errorf("%s is still there", l.Name())
			}
		}
		v, _ := apart.VPC(vpc)
		if _, ok := v.VRF("pe2"); ok {
			t.Errorf("%s is still at pe2", vpc)
		}
		back := do(t, apart, Operation{Do: "join", VPC: vpc, Site: "hq"})
		same(t, vpc, p, back)
		same(t, "detached "+vpc, apart, p.Detach(func(a Attachment) bool { return a.VPC == vpc && a.Site == "hq" }))
	}
}

// A PE has what it has of a VPC as long as any circuit comes to it, a first one
// or a second.
func TestSecondCircuitKeepsTheVRF(t *testing.T) {
	p := do(t, homedPlan(t), Operation{Do: "join", VPC: "globex", Site: "illinois"}, Operation{Do: "leave", VPC: "globex", Site: "hq"})
	v, _ := p.VPC("globex")
	for _, pe := range []string{"pe2", "pe3"} {
		if _, ok := v.VRF(pe); !ok {
			t.Errorf("%s has no VRF, and illinois is homed to it", pe)
		}
	}
}
