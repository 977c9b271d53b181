// Package vpntest is the small provider network on which the in-kernel tests
// of emu/mpls and emu/bgp run: it builds it (lab.go), asks machines for
// answers over UDP and ICMP (ask.go), reads frames off links (wire.go) and
// puts frames of its own on them (station.go).
// It is for tests only.
package vpntest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/mpls"
	"github.com/vpclab/vpclab/topo"
)

// Network is the scenario: three PEs and two Ps in a row, so that an LSP from
// one end to the other has a swap, a penultimate hop and an egress of its
// own, and pe3 behind pe2's neighbor, so that its LSPs are short.
//
//	s1 -- pe1 -- p1 -- p2 -- pe2 -- s2
//	             |      |
//	            rr     pe3 -- s3
//
// red has all three sites, blue the first two, with red's prefixes.
const Network = `
name: %s
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    mtu: %d
    links:
      - {between: [pe1, p1]}
      - {between: [p1, p2]}
      - {between: [p2, pe2]}
      - {between: [p2, pe3]}
  sites:
    s1: {kind: enterprise, pe: pe1, machines: 1}
    s2: {kind: enterprise, pe: pe2, machines: 1}
    s3: {kind: enterprise, pe: pe3, machines: 1}
vpcs:
  red: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24, s3: 10.0.3.0/24}}
  blue: {service: l3vpn, subnets: {s1: 10.0.1.0/24, s2: 10.0.2.0/24}}
`

// CoreMTU carries 1500 bytes under two labels with room to spare.
const CoreMTU = 1600

// Plan expands Network.
func Plan(t testing.TB, name string, coreMTU int) *topo.Plan {
	t.Helper()
	return Expand(t, fmt.Sprintf(Network, name, coreMTU))
}

// Expand makes a plan of a scenario file.
func Expand(t testing.TB, scenario string) *topo.Plan {
	t.Helper()
	sc, err := topo.Parse("network.vpclab.yml", []byte(scenario))
	require.NoError(t, err)
	plan, err := topo.Expand(sc)
	require.NoError(t, err)
	return plan
}

// Lab is a plan made real. Everything goes when the test ends.
type Lab struct {
	*fabric.Fabric
	Plan *topo.Plan
	t    testing.TB
}

// New builds plan: nodes, links, labels and VRFs, no VPN routes.
func New(t testing.TB, plan *topo.Plan, sink event.Sink) *Lab {
	t.Helper()
	if sink == nil {
		sink = func(event.Event) {}
	}
	f, err := fabric.New(plan.Lab, sink)
	require.NoError(t, err)
	l := &Lab{Fabric: f, Plan: plan, t: t}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := f.Destroy(ctx); err != nil {
			t.Errorf("destroy lab %s: %v", plan.Lab, err)
		}
		f.Close()
	})
	l.Converge(State(plan))
	return l
}

// On looks at a lab that somebody else has built from plan, and removes.
func On(t testing.TB, f *fabric.Fabric, plan *topo.Plan) *Lab {
	return &Lab{Fabric: f, Plan: plan, t: t}
}

// State is everything of a plan but VPN routes.
func State(plan *topo.Plan) fabric.State {
	st := fabric.Compile(plan)
	mpls.Compile(plan, &st)
	return st
}

// WithVPNRoutes adds to st the routes that BGP would bring, so that the data
// plane can be tested without it.
func WithVPNRoutes(plan *topo.Plan, st fabric.State) fabric.State {
	for _, v := range plan.VPCs {
		for _, to := range v.Attachments {
			egress, _ := v.VRF(to.PE)
			lsp, _ := plan.LSP(to.PE)
			for _, at := range v.VRFs {
				if _, here := to.At(at.PE); here {
					continue
				}
				for _, h := range lsp.Hops {
					if h.Node != at.PE {
						continue
					}
					n := st.Nodes[at.PE]
					n.Routes = append(append([]fabric.Route(nil), n.Routes...),
						mpls.VPNRoute(at.Table, to.Subnet, h.OutLabel, egress.Label, h.Via, h.Dev))
					st.Nodes[at.PE] = n
				}
			}
		}
	}
	return st
}

// Converge applies st.
func (l *Lab) Converge(st fabric.State) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	_, err := l.Apply(ctx, st)
	require.NoError(l.t, err)
}

// In runs fn in node's namespace and fails the test on an error.
func (l *Lab) In(node string, fn func() error) {
	l.t.Helper()
	require.NoError(l.t, l.Do(node, fn), "in %s", node)
}
