package lab

import (
	"bytes"
	"strings"
	"syscall"
	"testing"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

const watchfulLab = `
name: watchful
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1, p2]
    recovery: {detect: [carrier, bfd, bfd-multihop], interval: 50ms, reroute: false}
    links:
      - {between: [pe1, p1]}
      - {between: [p1, pe2]}
      - {between: [pe1, p2], cost: 20}
      - {between: [p2, pe2], cost: 20}
      - {between: [p1, p2]}
  sites:
    texas: {kind: enterprise, pe: pe1}
    hq: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: l3vpn, sites: [texas, hq]}
`

// TestReflexesOfALab: the routers' processes come with the plan that asks for
// them, are brought back when they die, and go with it.
func TestReflexesOfALab(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, watchfulLab)
	ctx := limit(t)
	if err := l.Awake(ctx); err != nil {
		t.Fatal(err)
	}
	rep, err := l.Inspect(ctx, InspectRequest{Sections: []Section{Recovery}})
	if err != nil || len(rep.Recovery) != 4 {
		t.Fatalf("%d routers watch, %v", len(rep.Recovery), err)
	}
	for _, r := range rep.Recovery {
		multihop := 0
		for _, s := range r.Sessions {
			if s.Dev == "" {
				multihop++
			}
		}
		if pe := strings.HasPrefix(r.Node, "pe"); pe != (multihop == 1) || r.Protect == 0 || r.Switched != 0 {
			t.Errorf("%s: %d multihop sessions, %d of %d routes switched", r.Node, multihop, r.Switched, r.Protect)
		}
	}
	var table bytes.Buffer
	rep.Text(&table)
	if !strings.Contains(table.String(), "up for") {
		t.Errorf("the table shows no session:\n%s", table.String())
	}

	sub := l.Subscribe()
	defer sub.Close()
	proc, _ := l.repairs.get("p1")
	if err := syscall.Kill(proc.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, sub, "p1", "repair.restarted")
	if err := l.Awake(ctx); err != nil {
		t.Fatal(err)
	}

	if _, err := l.Apply(ctx, plan.WithRecovery(&topo.Recovery{Detect: []string{topo.DetectNone}, Hold: plan.Recovery.Hold})); err != nil {
		t.Fatal(err)
	}
	if n := len(l.repairs.all()); n != 0 {
		t.Errorf("%d processes are left where nothing is to be detected", n)
	}
}

func waitFor(t *testing.T, sub *Subscription, node, kind string) event.Event {
	t.Helper()
	ctx := limit(t)
	for {
		select {
		case e := <-sub.C:
			if e.Node == node && e.Kind == kind {
				return e
			}
		case <-ctx.Done():
			t.Fatalf("waited for %s of %s: %v", kind, node, ctx.Err())
		}
	}
}
