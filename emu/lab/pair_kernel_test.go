package lab

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

const pairedLab = `name: paired
topology:
  backbone:
    pe: [pe1, pe2, pe3, pe4]
    p: [p1]
    links: [{between: [pe1, p1], delay: 1ms}, {between: [pe2, p1], delay: 1ms}, {between: [pe3, p1], delay: 1ms}, {between: [pe4, p1], delay: 1ms}]
  sites:
    texas: {kind: cloud, pe: pe1}
    illinois: {kind: cloud, pe: pe2}
    oregon: {kind: cloud, pe: pe3}
    hq: {kind: enterprise, pe: pe4, machines: 1}
vpcs:
  acme: {service: SERVICE, sites: [texas, illinois, hq]}
vms:
  shop: {vpc: acme, host: texas/1, memory: 4MiB, disk: 4MiB, standby: {host: illinois/1, mode: MODE, silence: 400ms}}
`

func pairedText(service, mode string) string {
	return strings.NewReplacer("SERVICE", service, "MODE", mode).Replace(pairedLab)
}

// watching keeps the events of a pair.
type watching struct {
	t   *testing.T
	sub *Subscription
	all []event.Event
}

func watch(t *testing.T, l *Lab) *watching {
	w := &watching{t: t, sub: l.Subscribe()}
	t.Cleanup(func() {
		w.sub.Close()
		if t.Failed() {
			w.log()
			all, err := l.PairStatuses(context.Background())
			t.Log(err)
			for _, s := range all {
				t.Logf("%+v", s)
				for _, seat := range s.Seats {
					t.Logf("%+v", seat)
				}
			}
		}
	})
	return w
}

func (w *watching) log() {
	w.drain()
	for _, e := range w.all {
		if strings.HasPrefix(e.Kind, "pair.") || strings.HasPrefix(e.Kind, "vm.") || strings.HasPrefix(e.Kind, "agent.") || strings.HasPrefix(e.Kind, "lease.") || strings.HasPrefix(e.Kind, "witness.") || e.Kind == "lab.failed" {
			w.t.Logf("%9.3f %s %s %v", float64(e.T)/1e9, e.Node, e.Kind, e.Attr)
		}
	}
}

// await waits for the next event of the kind, since that many.
func (w *watching) await(kind string) event.Event {
	w.t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for {
		select {
		case e := <-w.sub.C:
			w.all = append(w.all, e)
			if e.Kind == kind {
				return e
			}
		case <-deadline.C:
			w.t.Fatalf("no event %s within 20 s", kind)
		}
	}
}

// broken has a fault happen, until mended is called.
func broken(t *testing.T, ctx context.Context, l *Lab, f topo.Fault) (at event.Mono, mended func()) {
	t.Helper()
	i, err := l.Inject(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	return i.At, func() {
		t.Helper()
		if err := i.Undo(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// split is where the time of a failover went.
func split(w *watching, at event.Mono) string {
	last := func(kind string) event.Mono {
		for i := len(w.all) - 1; i >= 0; i-- {
			if e := w.all[i]; e.Kind == kind && e.T > at {
				return e.T
			}
		}
		return 0
	}
	s, g, a, r := last("pair.suspected"), last("pair.granted"), last("pair.activated"), last("pair.redirected")
	return fmt.Sprintf("detect %v, decide %v, activate %v, redirect %v", s.Sub(at), g.Sub(s), a.Sub(g), r.Sub(a))
}

// TestSeats goes through the life of a protected VM in each mode: its host loses
// power and it goes on in another cloud; the host comes back and becomes the
// standby; and a planned switch-over brings the VM home.
func TestSeats(t *testing.T) {
	kerneltest.Need(t)
	var l *Lab
	modes := []string{topo.ModeCheckpoint, topo.ModeAsync, topo.ModePipelined, topo.ModeSync}
	if m := os.Getenv("VPCLAB_TEST_MODES"); m != "" {
		modes = strings.Split(m, ",")
	}
	for _, mode := range modes {
		text := pairedText("vpls", mode)
		if l == nil {
			l, _ = deployed(t, text)
		} else if _, err := l.Apply(limit(t), planOf(t, text)); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if !t.Run(mode, func(t *testing.T) { seatsOf(t, l, mode) }) {
			return
		}
	}
}

func seatsOf(t *testing.T, l *Lab, mode string) {
	ctx := limit(t)
	w := watch(t, l)
	c := newCustomer(t, l)
	c.forgives = mode == topo.ModeAsync
	synced := func() {
		t.Helper()
		if err := l.Synced(ctx, "shop"); err != nil {
			t.Fatal(err)
		}
	}
	synced()
	c.served(20)
	at, mend := broken(t, ctx, l, topo.Fault{Kind: topo.FaultHostCrash, Host: "texas/1"})
	for w.await("pair.redirected").Attr["seat"] != "shop-standby" {
	}
	c.served(5)
	t.Logf("%s; the longest increment took %v", split(w, at), c.longest())
	c.account(ctx, mode != topo.ModeAsync, mode == topo.ModeCheckpoint)

	mend()
	synced()
	c.served(20)
	before := event.Now()
	out, err := l.SwitchOver(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if out.From != "illinois-h1" || out.To != "texas-h1" {
		t.Errorf("it went from %s to %s", out.From, out.To)
	}
	c.served(5)
	t.Logf("switched over in %v; the longest increment took %v", out.Activated.Sub(before), c.longest())
	c.account(ctx, true, mode == topo.ModeCheckpoint)
	s, err := l.PairStatus(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if s.Active != "shop" || s.Seats[0] == nil || s.Seats[1] == nil || !s.Seats[0].Port || s.Seats[1].Port || s.Seats[0].Ran < s.Seats[1].Ran {
		t.Errorf("after all: %+v, %+v, %+v", s, s.Seats[0], s.Seats[1])
	}
	w.never("pair.failed")
	c.leave()
}

// never fails for events that should not have come.
func (w *watching) never(kind string) {
	w.t.Helper()
	w.drain()
	for _, e := range w.all {
		if e.Kind == kind {
			w.t.Errorf("%s %s %v", e.Node, e.Kind, e.Attr)
		}
	}
}

// longest is the longest increment since it was last asked.
func (c *customer) longest() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	gap := c.gap
	c.gap = 0
	return gap
}

// account checks that nothing that the customer was told is lost, where kept,
// and that no connection broke, where held.
func (c *customer) account(ctx context.Context, kept, held bool) {
	c.t.Helper()
	lost, err := c.lost(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || kept && lost > 0 || held && c.breaks > 0 {
		c.t.Errorf("of %d acknowledged increments %d are lost, the connection broke %d times (%v), %v", c.acked, lost, c.breaks, c.last, err)
	}
	c.t.Logf("%d increments acknowledged, %d lost and %d before, %d connections broken", c.acked, lost, c.forgiven, c.breaks)
}

// TestProtectionComesAndGoes: a VM that has lost its standby in the plan is an
// ordinary one, and gets another.
func TestProtectionComesAndGoes(t *testing.T) {
	kerneltest.Need(t)
	l, plan := deployed(t, pairedText("vpls", "checkpoint"))
	ctx := limit(t)
	watch(t, l)
	if err := l.Synced(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	_, mend := broken(t, ctx, l, topo.Fault{Kind: topo.FaultHostCrash, Host: "texas/1"})
	if err := l.pairs.wait(ctx, "shop", func(k protected) bool { return k.active == "shop-standby" }); err != nil {
		t.Fatal(err)
	}
	mend()
	if _, err := l.ApplyWith(ctx, plan.WithoutStandby("shop"), ApplyOptions{Trust: true}); err != nil {
		t.Fatal(err)
	}
	c := newCustomer(t, l)
	c.account(ctx, true, true)
	c.leave()
	inOnePlace(t, ctx, l, "texas-h1")
	if _, err := l.ApplyWith(ctx, plan, ApplyOptions{Trust: true}); err != nil {
		t.Fatal(err)
	}
	if err := l.Synced(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
}

// TestSeatsOfAnL3VPN: in an l3vpn the VM keeps its address at another site, and
// the whole VPC is led there, and back.
func TestSeatsOfAnL3VPN(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, pairedText("l3vpn", "checkpoint"))
	w := watch(t, l)
	ctx := limit(t)
	at := event.Now()
	seatsOf(t, l, topo.ModeCheckpoint)
	for _, seat := range []string{"shop-standby", "shop"} {
		for w.await("pair.routed").Attr["seat"] != seat {
		}
	}
	for _, e := range w.all {
		if e.Kind == "pair.activated" || e.Kind == "pair.routed" {
			t.Logf("%v after all began: %s %v", e.T.Sub(at), e.Kind, e.Attr["seat"])
		}
	}
	if err := l.Whole(ctx); err != nil {
		t.Error(err)
	}
}

// TestFences cuts the three of a lease off from each other, one after the other,
// and kills what can be killed: the VM runs at one place at most, and always goes
// on at one that may.
func TestFences(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, pairedText("vpls", "checkpoint"))
	ctx := limit(t)
	w := watch(t, l)
	c := newCustomer(t, l)
	synced := func() {
		t.Helper()
		if err := l.Synced(ctx, "shop"); err != nil {
			t.Fatal(err)
		}
	}
	// once waits for an event of a seat, and tells of what came meanwhile.
	once := func(kind, seat string) event.Event {
		t.Helper()
		for {
			if e := w.await(kind); e.Attr["seat"] == seat {
				return e
			}
		}
	}
	synced()

	// The standby is cut off: the VM goes on, unprotected, and is protected again
	// when that is back.
	_, mend := broken(t, ctx, l, topo.Fault{Kind: topo.FaultPartition, Apart: [][]string{{"illinois"}, {"texas", "oregon", "hq"}}})
	once("pair.degraded", "shop")
	c.served(10)
	mend()
	once("pair.synced", "shop")

	// The witness is cut off: nothing happens.
	begun := len(w.all)
	_, mend = broken(t, ctx, l, topo.Fault{Kind: topo.FaultPartition, Apart: [][]string{{"oregon"}, {"texas", "illinois", "hq"}}})
	c.served(100)
	mend()
	c.served(1)
	w.drain()
	for _, e := range w.all[begun:] {
		if strings.HasPrefix(e.Kind, "pair.") {
			t.Errorf("without a witness: %s %v", e.Kind, e.Attr)
		}
	}

	// The witness is killed: another takes its place.
	_, _ = broken(t, ctx, l, topo.Fault{Kind: topo.FaultKill, Process: "witness", Host: "oregon/1"})
	w.await("witness.restarted")
	c.served(10)

	// The active is cut off from all: it stands by itself before the other begins.
	at, mend := broken(t, ctx, l, topo.Fault{Kind: topo.FaultPartition, Apart: [][]string{{"texas"}, {"illinois", "oregon", "hq"}}})
	activated := once("pair.activated", "shop-standby")
	c.served(10)
	t.Logf("cut off: %s", split(w, at))
	mend()
	fenced := once("pair.fenced", "shop")
	if ran, err := strconv.ParseInt(fenced.Attr["ran"], 10, 64); err != nil || event.Mono(ran) >= activated.T {
		t.Errorf("it ran at %s until %d, and elsewhere from %d (%v)", fenced.Attr["host"], ran, activated.T, err)
	}
	once("pair.synced", "shop-standby")

	// The agent of the active is killed, which leaves its guest behind: it goes on
	// there or elsewhere, once.
	_, _ = broken(t, ctx, l, topo.Fault{Kind: topo.FaultKill, Process: "agent", Host: "illinois/1"})
	c.served(10)
	w.drain()
	synced()

	// The guest is killed: the standby goes on with what it was.
	_, _ = broken(t, ctx, l, topo.Fault{Kind: topo.FaultKill, Process: "guest", VM: "shop"})
	w.await("pair.activated")
	c.served(10)
	c.account(ctx, true, true)
	synced()
	s, err := l.PairStatus(ctx, "shop")
	if err != nil || s.Seats[0] == nil || s.Seats[1] == nil || s.Seats[0].Port == s.Seats[1].Port {
		t.Errorf("after all: %+v (%v)", s, err)
	}
}

// drain takes the events that have come.
func (w *watching) drain() {
	for len(w.sub.C) > 0 {
		w.all = append(w.all, <-w.sub.C)
	}
}
