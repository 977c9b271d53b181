package scenarios

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/topo"
)

func demoPlan(t *testing.T) *topo.Plan {
	t.Helper()
	_, plan, err := Parse("demo.vpclab.yml", []byte(`name: demo
generate: {backbone: ring, pe: 3, p: 3, sites: 4, tenants: 3, machines: 3, overlap: true}
experiments: [{kind: vpc-setup}]
`))
	require.NoError(t, err)
	return plan
}

func TestScopeTakesTheFirstOfEach(t *testing.T) {
	plan := demoPlan(t)
	s := newScope(plan, point{"sites": "2", "tenants": "2", "machines": "1"})
	require.Len(t, s.attachments, 4)
	require.Equal(t, []string{"t1-s1-1", "t1-s2-1", "t2-s1-1", "t2-s2-1"}, machinesIn(s.attachments))
	require.Equal(t, member{"t1", "s3"}, memberOf(s.newcomer))
	require.False(t, s.within)
	require.Len(t, sitePairs(s.attachments), 4)

	all := newScope(plan, point{"sites": "4", "tenants": "1", "machines": "3"})
	require.True(t, all.within, "with all sites in use the last one leaves and joins again")
	require.Equal(t, member{"t1", "s4"}, memberOf(all.newcomer))
	set, old := all.without()
	require.Len(t, set, 3)
	require.Len(t, old, 3)
	require.Len(t, rings(old, 8), 3)
	require.Len(t, spokes(all.newcomer, old), 6)
}

func TestSharedNetworkGivesEveryMachineATwin(t *testing.T) {
	plan := demoPlan(t)
	with, net, err := withShared(plan)
	require.NoError(t, err)
	require.Len(t, net.twins, len(plan.Machines()))
	addrs := map[string]string{}
	for m, twin := range net.twins {
		require.Empty(t, addrs[twin.Addr.String()], "%s has the address of another", m)
		addrs[twin.Addr.String()] = m
		own, _ := plan.Node(m)
		require.Equal(t, own.VPC, twin.VPC)
		require.Equal(t, own.Site, twin.Site)
	}
	for _, n := range with.Nodes {
		if n.Kind != topo.KindPE && n.Kind != topo.KindP {
			continue
		}
		require.Len(t, n.Routes, 4, "%s needs a route to the shared LAN of every site", n.Name)
	}
	old, _ := plan.Node("pe1")
	require.Empty(t, old.Routes, "the plan it was made from is as it was")
	macs, ends := map[topo.MAC]bool{}, map[string]bool{}
	for _, l := range with.Links {
		for _, e := range []topo.Endpoint{l.A, l.B} {
			require.False(t, ends[e.Node+":"+e.Ifname], "%s has two interfaces %s", e.Node, e.Ifname)
			require.LessOrEqual(t, len(e.Ifname), 15)
			ends[e.Node+":"+e.Ifname] = true
			if e.MAC[1] == 0xfd {
				require.False(t, macs[e.MAC], "MAC %s twice", e.MAC)
				macs[e.MAC] = true
			}
		}
	}
	require.NotEqual(t, net.spare[0].Site, net.spare[1].Site)
}

func TestAddAndMoveAMachine(t *testing.T) {
	plan := demoPlan(t)
	more, node, err := addMachine(plan, member{"t2", "s1"}, "")
	require.NoError(t, err)
	require.Equal(t, "t2-s1-4", node.Name)
	last, _ := plan.Node("t2-s1-3")
	require.Equal(t, last.Addr.Next(), node.Addr)
	require.Len(t, more.Nodes, len(plan.Nodes)+1)
	require.Len(t, more.Links, len(plan.Links)+1)
	a, _ := attachment(more, member{"t2", "s1"})
	require.Len(t, a.Machines, 4)
	a, _ = attachment(plan, member{"t2", "s1"})
	require.Len(t, a.Machines, 3, "the plan it was made from is as it was")

	moved, node, err := addMachine(more, member{"t2", "s3"}, "t2-s1-4")
	require.NoError(t, err)
	last, _ = plan.Node("t2-s3-3")
	require.Equal(t, last.Addr.Next(), node.Addr)
	require.Len(t, moved.Nodes, len(plan.Nodes)+1, "it is one machine still")
	a, _ = attachment(moved, member{"t2", "s1"})
	require.Len(t, a.Machines, 3)
	wire, ok := wireOf(moved, "t2-s1-4")
	require.True(t, ok)
	require.Equal(t, "t2-s3-ce", wire.B.Node)
}

func TestFewerMachines(t *testing.T) {
	plan := demoPlan(t)
	few := withMachines(plan, 1)
	require.Len(t, few.Machines(), 4*3)
	require.Len(t, few.Links, len(plan.Links)-4*3*2)
	require.Len(t, plan.Machines(), 4*3*3, "the plan it was made from is as it was")
}

func TestTouchedCountsAChangeOnce(t *testing.T) {
	before := entries{"a": "1", "b": "1", "c": "1"}
	after := entries{"a": "1", "b": "2", "d": "1"}
	require.Equal(t, 3, touched(before, after))
	require.Equal(t, []string{"+ d: 1", "- c: 1", "~ b: 1 -> 2"}, differences(before, after))
}
