package topo

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const selectSource = `
name: select
topology:
  backbone:
    pe: [pe1, pe2]
    links: [{between: [pe1, pe2]}]
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2, machines: 2}
    hq: {kind: enterprise, pe: pe1}
    lab: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: l3vpn, sites: [texas, hq, lab]}
  globex: {service: l3vpn, sites: [texas, lab]}
`

func names(nodes []Node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return list
}

func TestRestrict(t *testing.T) {
	whole := mustExpand(t, mustParse(t, selectSource))
	before := mustExpand(t, mustParse(t, selectSource))
	p := whole.Restrict(func(a Attachment) bool { return a.VPC == "acme" && a.Site != "lab" })
	want := []string{"pe1", "pe2", "rr", "texas-h1", "texas-h2", "acme-texas-ce", "acme-texas-1", "acme-texas-2", "acme-hq-ce", "acme-hq-1"}
	if diff := cmp.Diff(want, names(p.Nodes)); diff != "" {
		t.Errorf("nodes: %s", diff)
	}
	if len(p.VPCs) != 1 || len(p.VPCs[0].VRFs) != 1 || p.VPCs[0].VRFs[0].PE != "pe1" {
		t.Errorf("VPCs: %+v", p.VPCs)
	}
	host, _ := p.Node("texas-h1")
	if len(host.Bridges) != 1 || host.Bridges[0].Name != "br-acme" {
		t.Errorf("the host has %+v", host.Bridges)
	}
	for _, l := range p.Links {
		if l.VPC == "globex" || l.Site == "lab" {
			t.Errorf("link %s is still there", l.Name())
		}
		if !slices.ContainsFunc(whole.Links, func(o Link) bool { return o == l }) {
			t.Errorf("link %s has changed", l.Name())
		}
	}
	if p.MaxLabel() != whole.MaxLabel() {
		t.Error("the label tables have changed size")
	}
	if diff := cmp.Diff(before, whole, cmpAddrs); diff != "" {
		t.Errorf("Restrict changed its receiver: %s", diff)
	}
	none := whole.Restrict(func(Attachment) bool { return false })
	if len(none.VPCs) != 0 || len(none.Machines()) != 0 || len(none.Links) != 2 {
		t.Errorf("nothing kept leaves %+v", none)
	}
	all := whole.Restrict(func(Attachment) bool { return true })
	if diff := cmp.Diff(whole, all, cmpAddrs); diff != "" {
		t.Errorf("all kept changes %s", diff)
	}
}

func TestDetach(t *testing.T) {
	whole := mustExpand(t, mustParse(t, selectSource))
	before := mustExpand(t, mustParse(t, selectSource))
	p := whole.Detach(func(a Attachment) bool { return a.VPC == "acme" && a.Site != "texas" })
	if diff := cmp.Diff(names(whole.Nodes), names(p.Nodes)); diff != "" {
		t.Errorf("nodes: %s", diff)
	}
	for _, a := range p.Attachments() {
		out := a.VPC == "acme" && a.Site != "texas"
		if a.Joined == out {
			t.Errorf("%s at %s: joined %v", a.VPC, a.Site, a.Joined)
		}
		ce := mustNode(t, p, a.CE)
		if (len(ce.Routes) == 0) != out {
			t.Errorf("%s has the routes %v", ce.Name, ce.Routes)
		}
		if uplink := slices.ContainsFunc(p.LinksOf(a.CE), func(l Link) bool { return l.AC }); uplink == out {
			t.Errorf("%s has an uplink: %v", a.CE, uplink)
		}
	}
	acme, _ := p.VPC("acme")
	if len(acme.VRFs) != 1 || acme.VRFs[0].PE != "pe1" {
		t.Errorf("VRFs of acme: %+v", acme.VRFs)
	}
	if len(p.Links) != len(whole.Links)-2 {
		t.Errorf("%d links of %d", len(p.Links), len(whole.Links))
	}
	if diff := cmp.Diff(before, whole, cmpAddrs); diff != "" {
		t.Errorf("Detach changed its receiver: %s", diff)
	}
}

func TestLookups(t *testing.T) {
	p := mustExpand(t, mustParse(t, selectSource))
	if _, ok := p.Node("nobody"); ok {
		t.Error("there is a node nobody")
	}
	if _, ok := p.VPC("nobody"); ok {
		t.Error("there is a VPC nobody")
	}
	if _, ok := p.LSP("rr"); ok {
		t.Error("there is an LSP to the reflector")
	}
	if diff := cmp.Diff([]string{"pe2", "rr", "acme-texas-ce", "acme-hq-ce", "globex-texas-ce"}, p.Neighbors("pe1")); diff != "" {
		t.Errorf("neighbours of pe1: %s", diff)
	}
	if n := len(p.Attachments()); n != 5 {
		t.Errorf("%d attachments", n)
	}
}
