package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	trains "github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// brittle is a ring with an l3vpn between two of its PEs, and a VM with a guest
// in a cloud at the third.
const brittle = `name: brittle
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    links: [{between: [pe1, p1], delay: 1ms}, {between: [pe2, p1], rate: 50mbit}, {between: [pe3, p1]}]
  sites:
    hq: {kind: enterprise, pe: pe1}
    lab: {kind: enterprise, pe: pe2}
    texas: {kind: cloud, pe: pe3}
vpcs:
  acme: {service: l3vpn, sites: [hq, lab, texas]}
vms:
  shop: {vpc: acme, host: texas/1, memory: 4MiB, disk: 1MiB}
`

// silence is what a direction of a train suffered.
type silence struct {
	none time.Duration // the longest that nothing arrived
	lost time.Duration // the longest run of probes that were lost
}

// talk is a train between two machines; silent tells of both directions. Packets
// that a router kept until it found their receiver again are late, and not lost.
func talk(t *testing.T, l *Lab, plan *topo.Plan, a, b string) (silent func() [2]silence) {
	t.Helper()
	var eps []trains.Endpoint
	for _, name := range []string{a, b} {
		n, _ := plan.Node(name)
		eps = append(eps, trains.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	p, err := trains.Open(l.Fabric().Do, eps)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	train, err := p.StartTrain(trains.TrainConfig{Flows: []trains.Flow{{From: a, To: b}, {From: b, To: a}}, Interval: 5 * time.Millisecond, Log: true})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, train.WaitFirst(ctx))
	return func() (all [2]silence) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		end := event.Now()
		r, err := train.Stop(ctx)
		require.NoError(t, err)
		for i, f := range r.Flows {
			last := r.Start
			for _, a := range f.Arrivals {
				all[i].none = max(all[i].none, a.Received.Sub(last))
				last = max(last, a.Received)
			}
			all[i].none = max(all[i].none, end.Sub(last))
			for _, g := range f.Gaps {
				all[i].lost = max(all[i].lost, g.Length())
			}
		}
		return all
	}
}

// await waits for a moment of the test's own.
func await(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(30 * time.Second):
		t.Fatalf("waited 30 s for %s", what)
	}
}

// whole fails unless the lab is whole in time.
func whole(t *testing.T, l *Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 40*time.Second, fmt.Errorf("waited 40 s"))
	defer cancel()
	if err := l.Whole(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestFaultsOfEachKind(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, brittle)
	whole(t, l)
	const last = topo.Duration(300 * time.Millisecond)
	cut := []string{"pe2", "p1"}
	for _, c := range []struct {
		name  string
		fault topo.Fault
		a, b  string
		dead  [2]bool // whether the directions are silent meanwhile
	}{
		{"a link is cut", topo.Fault{Kind: topo.FaultLinkDown, Link: cut}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"one direction is silent", topo.Fault{Kind: topo.FaultLinkOneWay, Link: cut}, "acme-hq-1", "acme-lab-1", [2]bool{false, true}},
		{"both directions are", topo.Fault{Kind: topo.FaultLinkSilent, Link: cut}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"a circuit is cut", topo.Fault{Kind: topo.FaultLinkDown, Link: []string{"acme-hq-ce", "pe1"}}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"a bystander is cut off", topo.Fault{Kind: topo.FaultPartition, Apart: [][]string{{"texas"}, {"hq", "lab"}}}, "acme-hq-1", "acme-lab-1", [2]bool{}},
		{"a site is cut off", topo.Fault{Kind: topo.FaultPartition, Apart: [][]string{{"texas", "lab"}, {"hq"}}, Carrier: true}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"an edge crashes", topo.Fault{Kind: topo.FaultNodeCrash, Node: "pe1"}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"the core crashes", topo.Fault{Kind: topo.FaultNodeCrash, Node: "p1"}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"a host crashes", topo.Fault{Kind: topo.FaultHostCrash, Host: "texas/1"}, "acme-hq-1", "acme-lab-1", [2]bool{}},
		{"a site burns", topo.Fault{Kind: topo.FaultSiteDown, Site: "lab"}, "acme-hq-1", "acme-lab-1", [2]bool{true, true}},
		{"a speaker is killed", topo.Fault{Kind: topo.FaultKill, Process: "speaker", Node: "pe3"}, "acme-hq-1", "acme-lab-1", [2]bool{}},
		{"an agent is killed and kept away", topo.Fault{Kind: topo.FaultKill, Process: "agent", Host: "texas/1"}, "acme-hq-1", "acme-lab-1", [2]bool{}},
		{"a guest is killed and kept away", topo.Fault{Kind: topo.FaultKill, Process: "guest", VM: "shop"}, "acme-hq-1", "acme-lab-1", [2]bool{}},
		{"sessions are cut off", topo.Fault{Kind: topo.FaultBGPReset, Node: "pe3"}, "acme-hq-1", "acme-lab-1", [2]bool{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := l.Subscribe()
			defer sub.Close()
			silent := talk(t, l, plan, c.a, c.b)
			if c.fault.Kind != topo.FaultBGPReset {
				c.fault.For = last
			}
			i, err := l.Inject(limit(t), c.fault)
			require.NoError(t, err)
			took := event.Now().Sub(i.At)
			if len(l.Faults()) > 0 { // else this machine is slow
				require.ErrorContains(t, l.Broken(t.Context()), c.fault.String())
			}
			await(t, "the end of the fault", i.Over())
			require.Empty(t, l.Faults())
			began := time.Now()
			whole(t, l)
			gaps := silent()
			t.Logf("injected in %v, whole %v after its end; silent %v", took, time.Since(began).Round(time.Millisecond), gaps)
			for j, dead := range c.dead {
				if dead {
					require.GreaterOrEqual(t, gaps[j].none, last.Std()*2/3, "direction %d; a machine that stalls sends less", j)
				} else {
					require.Less(t, gaps[j].lost, last.Std(), "direction %d", j)
				}
			}
			injected := waitEvent(t, limit(t), sub, c.fault.Node, "fault.injected")
			require.Equal(t, i.At, injected.T)
			if c.fault.For == 0 {
				return
			}
			undone := waitEvent(t, limit(t), sub, c.fault.Node, "fault.undone")
			require.GreaterOrEqual(t, undone.T.Sub(injected.T), last.Std())
			require.Equal(t, c.fault.Kind, undone.Attr["fault"])
			require.Empty(t, undone.Attr["error"])
		})
	}
}

// TestFaultsInAnyOrder injects and undoes at random, with changes of the lab
// between, and has the lab whole in the end.
func TestFaultsInAnyOrder(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, brittle)
	r := rand.New(rand.NewPCG(11, 4))
	links := [][]string{{"pe1", "p1"}, {"pe2", "p1"}, {"pe3", "p1"}, {"pe1", "acme-hq-ce"}}
	pick := func() topo.Fault {
		link := links[r.IntN(len(links))]
		switch r.IntN(9) {
		case 0, 1:
			return topo.Fault{Kind: topo.FaultLinkDown, Link: link}
		case 2:
			return topo.Fault{Kind: topo.FaultLinkSilent, Link: link}
		case 3:
			return topo.Fault{Kind: topo.FaultDegrade, Link: link, Rate: 20e6, Loss: 5, Delay: topo.Duration(2 * time.Millisecond)}
		case 4:
			return topo.Fault{Kind: topo.FaultNodeCrash, Node: []string{"pe1", "pe2", "pe3", "p1"}[r.IntN(4)]}
		case 5:
			return topo.Fault{Kind: topo.FaultHostCrash, Host: "texas/1"}
		case 6:
			return topo.Fault{Kind: topo.FaultSiteDown, Site: []string{"texas", "lab"}[r.IntN(2)]}
		case 7:
			return topo.Fault{Kind: topo.FaultFlap, Link: link, Every: topo.Duration(40 * time.Millisecond)}
		}
		return topo.Fault{Kind: topo.FaultPartition, Apart: [][]string{{"hq"}, {"lab", "texas"}}}
	}
	var log []string
	begin := time.Now()
	for range 25 {
		open := l.Faults()
		if n := r.IntN(10); n < 6 || len(open) == 0 {
			f := pick()
			log = append(log, fmt.Sprintf("%7.3f %v", time.Since(begin).Seconds(), f))
			_, err := l.Inject(limit(t), f)
			require.NoError(t, err, strings.Join(log, "\n"))
		} else {
			i := open[r.IntN(len(open))]
			log = append(log, "undo "+i.Fault.String())
			require.NoError(t, i.Undo(limit(t)), strings.Join(log, "\n"))
		}
	}
	t.Log(strings.Join(log, "\n"))
	began := time.Now()
	require.NoError(t, l.UndoFaults(limit(t)))
	require.Empty(t, l.Faults())
	t.Logf("undone in %v", time.Since(began))
	whole(t, l)
	t.Logf("whole after %v", time.Since(began))
	tl, err := l.Apply(limit(t), plan)
	require.NoError(t, err)
	require.Zero(t, tl.Changes)
}

// TestLabGoesWithItsFaults: nothing of a fault outlives the lab, and the next lab
// of that name has none.
func TestLabGoesWithItsFaults(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, brittle)
	for _, f := range []topo.Fault{
		{Kind: topo.FaultNodeCrash, Node: "pe1"},
		{Kind: topo.FaultFlap, Link: []string{"pe2", "p1"}, Every: topo.Duration(50 * time.Millisecond)},
		{Kind: topo.FaultLinkSilent, Link: []string{"pe3", "p1"}, For: topo.Duration(time.Hour)},
	} {
		_, err := l.Inject(limit(t), f)
		require.NoError(t, err)
	}
	all := l.Faults()
	require.NoError(t, l.Destroy(limit(t)))
	nothingLeft(t)
	for _, i := range all {
		await(t, "the end of "+i.Fault.String(), i.Over())
		require.NoError(t, i.Undo(limit(t)))
	}
	_, err := l.Inject(limit(t), all[0].Fault)
	require.ErrorIs(t, err, ErrNotBuilt)
	_, err = l.Apply(limit(t), plan)
	require.NoError(t, err)
	require.Empty(t, l.Faults())
	whole(t, l)
}

// TestCrashesOfALAN has routers of a vpls crash that watch each other, with a
// controller that leads paths around what is lost.
func TestCrashesOfALAN(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, `name: lan
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1, p2]
    links: [{between: [pe1, p1]}, {between: [pe1, p2]}, {between: [pe2, p1]}, {between: [pe2, p2]}, {between: [pe3, p1]}, {between: [p1, p2]}]
    recovery: {detect: [carrier, bfd], interval: 50ms}
  sites:
    a: {kind: enterprise, pe: pe1}
    b: {kind: enterprise, pe: pe2}
    c: {kind: enterprise, pe: pe3}
vpcs:
  acme: {service: vpls, sites: [a, b, c]}
`)
	whole(t, l)
	for _, f := range []topo.Fault{
		{Kind: topo.FaultNodeCrash, Node: "p1"},
		{Kind: topo.FaultNodeCrash, Node: "pe1"},
		{Kind: topo.FaultLinkSilent, Link: []string{"pe1", "p2"}},
	} {
		t.Run(f.String(), func(t *testing.T) {
			silent := talk(t, l, plan, "acme-a-1", "acme-b-1")
			f.For = topo.Duration(700 * time.Millisecond)
			i, err := l.Inject(limit(t), f)
			require.NoError(t, err)
			await(t, "the end of the fault", i.Over())
			began := time.Now()
			whole(t, l)
			t.Logf("whole %v after its end; silent %v", time.Since(began).Round(time.Millisecond), silent())
			again, err := l.Apply(limit(t), plan)
			require.NoError(t, err)
			require.Zero(t, again.Changes)
		})
	}
}

// TestChangesWhileNodesAreDown applies plans to a lab of which an edge and a host
// are down: nobody waits for them, nothing of them is started, and they boot with
// what is then the plan.
func TestChangesWhileNodesAreDown(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, brittle)
	folder := filepath.Join(l.hypers.dir, "hosts", "texas-h1", "shop")
	require.FileExists(t, filepath.Join(folder, guest.MemoryFile))
	host, err := l.Inject(limit(t), topo.Fault{Kind: topo.FaultHostCrash, Host: "texas/1"})
	require.NoError(t, err)
	edge, err := l.Inject(limit(t), topo.Fault{Kind: topo.FaultNodeCrash, Node: "pe2"})
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(folder, guest.MemoryFile))
	require.FileExists(t, filepath.Join(folder, guest.DiskFile))

	less, err := plan.Do(topo.Operation{Do: "leave", VPC: "acme", Site: "hq"})
	require.NoError(t, err)
	for _, p := range []*topo.Plan{plan, less, plan} {
		_, err := l.ApplyWith(limit(t), p, ApplyOptions{Deadline: 5 * time.Second})
		require.NoError(t, err)
	}
	require.Nil(t, l.hypers.running("texas-h1"))
	_, runs := l.speakers.get("pe2")
	require.False(t, runs)
	var down *DownError
	_, err = l.hypers.agent(limit(t), plan, "texas-h1")
	require.ErrorAs(t, err, &down)

	_, err = l.Apply(limit(t), less)
	require.NoError(t, err)
	require.NoError(t, edge.Undo(limit(t)))
	require.NoError(t, host.Undo(limit(t)))
	require.NoError(t, host.Undo(limit(t)), "once more is nothing")
	whole(t, l)
	require.FileExists(t, filepath.Join(folder, guest.MemoryFile))
	_, err = l.Apply(limit(t), plan)
	require.NoError(t, err)
	whole(t, l)
}
