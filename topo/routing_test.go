package topo

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithRouting(t *testing.T) {
	plan := mustExpand(t, mustParse(t, selectSource))
	before := mustExpand(t, mustParse(t, selectSource))
	if plan.AllFRR() {
		t.Error("a plan as it comes is not FRR's")
	}
	mixed := plan.WithRouting(RoutingFRR, "pe2", "rr")
	for name, want := range map[string]Routing{"pe1": RoutingController, "pe2": RoutingFRR, "rr": RoutingController} {
		if n, _ := mixed.Node(name); n.Routing != want {
			t.Errorf("%s has routing %q, want %q", name, n.Routing, want)
		}
	}
	if mixed.AllFRR() {
		t.Error("one of two PEs is not all")
	}
	all := plan.WithRouting(RoutingFRR)
	if !all.AllFRR() {
		t.Error("not all PEs and Ps run FRR")
	}
	if diff := cmp.Diff(before, all.WithRouting(RoutingController), cmpAddrs); diff != "" {
		t.Errorf("there and back is not the same: %s", diff)
	}
	if diff := cmp.Diff(before, plan, cmpAddrs); diff != "" {
		t.Errorf("the receiver changed: %s", diff)
	}
}

func TestRoutingOfAFile(t *testing.T) {
	p := samples()["frr.vpclab.yml"]
	for name, want := range map[string]Routing{"pe1": RoutingFRR, "p1": RoutingFRR, "pe3": RoutingController, "rr": RoutingController} {
		if n := mustNode(t, p, name); n.Routing != want {
			t.Errorf("%s has routing %q, want %q", name, n.Routing, want)
		}
	}
	if p.AllFRR() || !p.WithRouting(RoutingFRR, "pe3").AllFRR() {
		t.Error("all but pe3 run FRR")
	}
}
