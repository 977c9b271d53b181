package scenarios

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// ladder is a lab with a reservation that does not take the shortest path:
// acme's goes pe-a p1 p3 p2 pe-b.
func ladder(t *testing.T, between ...string) *topo.Plan {
	t.Helper()
	_, plan, err := Parse("ladder.vpclab.yml", []byte(`name: ladder
topology:
  backbone:
    pe: [pe-a, pe-b, pe-c]
    p: [p1, p2, p3]
    links:
      - {between: [pe-a, p1], rate: 50mbit}
      - {between: [pe-b, p2], rate: 100mbit}
      - {between: [pe-c, p3], rate: 100mbit}
      - {between: [p1, p2], rate: 30mbit}
      - {between: [p1, p3], rate: 20mbit}
      - {between: [p3, p2]}
  sites:
    a: {kind: enterprise, pe: pe-a, machines: 2}
    b: {kind: enterprise, pe: pe-b, machines: 2}
    c: {kind: enterprise, pe: pe-c, machines: 2}
vpcs:
  acme:   {service: l3vpn, sites: [a, b]}
  globex: {service: l3vpn, sites: [a, c]}
experiments: [{kind: vpc-setup}]
`))
	require.NoError(t, err)
	r := topo.ReservationPlan{Name: "gold", Index: 1, VPC: "acme", Rate: 10e6, Between: [2]string{between[0], between[1]}}
	path := topo.ReservedPath{From: "pe-a", To: "pe-b", Path: []string{"pe-a", "p1", "p3", "p2", "pe-b"}}
	for i := range len(path.Path) - 1 {
		for _, l := range plan.Links {
			for _, e := range [][2]topo.Endpoint{{l.A, l.B}, {l.B, l.A}} {
				if e[0].Node == path.Path[i] && e[1].Node == path.Path[i+1] {
					path.Hops = append(path.Hops, topo.ReservedHop{Node: e[0].Node, Ifname: e[0].Ifname})
				}
			}
		}
	}
	require.Len(t, path.Hops, 4)
	r.Directions = []topo.ReservedPath{path}
	plan.Reservations = []topo.ReservationPlan{r}
	return plan
}

func TestContestIsWhereOthersCross(t *testing.T) {
	plan := ladder(t, "acme-a-1", "acme-b-1")
	c, msg, _ := newContest(plan, "")
	require.Empty(t, msg)
	require.Equal(t, traffic.Flow{From: "acme-a-1", To: "acme-b-1"}, c.flow)
	require.Equal(t, topo.Rate(50e6), c.line, "the link that acme's way has with the reservation and without, and globex's too")
	require.Equal(t, "pe-a", c.at.Node)
	require.Equal(t, []traffic.Flow{
		{From: "globex-a-1", To: "globex-c-1"}, {From: "globex-a-2", To: "globex-c-2"}, {From: "acme-a-1", To: "acme-b-2"}, {From: "acme-a-2", To: "acme-b-1"},
		{From: "globex-a-1", To: "globex-c-2"}, {From: "globex-a-2", To: "globex-c-1"}, {From: "acme-a-2", To: "acme-b-2"},
	}, c.rivals, "those of another VPC first, and nobody twice before all had their turn")
	link, msg, _ := c.failure(plan, c.path(plan))
	require.Empty(t, msg)
	require.Equal(t, []string{"p1", "p3"}, link, "without pe-a--p1 nobody reaches anybody")
}

func TestContestOfASite(t *testing.T) {
	plan := ladder(t, "acme-a-2", "b")
	c, msg, _ := newContest(plan, "gold")
	require.Empty(t, msg)
	require.Equal(t, traffic.Flow{From: "acme-a-2", To: "acme-b-1"}, c.flow)
	node := func(name string) topo.Node { n, _ := plan.Node(name); return *n }
	require.True(t, isReserved(plan, node("acme-b-2"), node("acme-a-2")), "back, and to any machine of the site")
	require.False(t, isReserved(plan, node("acme-a-1"), node("acme-b-1")))
	require.False(t, isReserved(plan, node("globex-a-2"), node("globex-c-1")))
}

func TestContestNeedsSomethingToContest(t *testing.T) {
	plan := ladder(t, "acme-a-1", "acme-b-1")
	_, msg, hint := newContest(plan, "golf")
	require.Equal(t, `there is no reservation "golf"`, msg)
	require.Equal(t, "did you mean gold?", hint)

	lonely := *plan
	lonely.VPCs = plan.VPCs[:1]
	lonely.Nodes = nil
	for _, n := range plan.Nodes {
		if n.VPC != "globex" {
			lonely.Nodes = append(lonely.Nodes, n)
		}
	}
	c, msg, _ := newContest(&lonely, "")
	require.Empty(t, msg)
	require.Equal(t, topo.Rate(50e6), c.line, "the other machines of its own VPC meet it before the ways part")
	require.Equal(t, "acme-a-1", c.flow.From)

	lonely.Reservations[0].Between = [2]string{"a", "b"} // all of them are its own now
	_, msg, hint = newContest(&lonely, "")
	require.Contains(t, msg, "no core link with a rate is on the path of reservation gold")
	require.Contains(t, hint, "pe-a:")

	plan.Reservations = nil
	_, msg, _ = newContest(plan, "")
	require.Contains(t, msg, "the scenario has none")
}
