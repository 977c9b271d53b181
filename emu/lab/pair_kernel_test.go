package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

const pairedLab = `name: paired
topology:
  backbone:
    pe: [pe1, pe2, pe3]
    p: [p1]
    links: [{between: [pe1, p1], delay: 1ms}, {between: [pe2, p1], delay: 1ms}, {between: [pe3, p1], delay: 1ms}]
  sites:
    texas: {kind: cloud, pe: pe1}
    illinois: {kind: cloud, pe: pe2}
    oregon: {kind: cloud, pe: pe3}
    hq: {kind: enterprise, pe: pe3, machines: 1}
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
		}
	})
	return w
}

func (w *watching) log() {
	for len(w.sub.C) > 0 {
		w.all = append(w.all, <-w.sub.C)
	}
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

// crash has a host lose its power: nobody hears of it any more, its processes are
// gone, and so are the memories; disks stay.
func crash(t *testing.T, l *Lab, host string) event.Mono {
	t.Helper()
	l.holds.keep([]string{host})
	for _, k := range l.Plan().LinksOf(host) {
		end := k.A
		if k.B.Node == host {
			end = k.B
		}
		if err := l.Fabric().Do(host, func() error {
			p, err := fabric.OpenPort(end.Ifname)
			if err != nil {
				return err
			}
			defer p.Close()
			return p.Down()
		}); err != nil {
			t.Fatal(err)
		}
	}
	at := event.Now()
	if a := l.hypers.running(host); a != nil {
		if err := a.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, seat := range l.pairs.at(host) {
		mine := seat.pair.VM
		if seat.pair.Hosts[1] == host {
			mine = seat.pair.Standby
		}
		for _, pid := range processesOf(t, filepath.Join(l.hypers.dir, "sockets", mine)) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	memories, _ := filepath.Glob(filepath.Join(l.hypers.dir, "hosts", host, "*", guest.MemoryFile))
	for _, m := range memories {
		if err := os.Remove(m); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// mend gives it its power back.
func mend(t *testing.T, ctx context.Context, l *Lab, host string) {
	t.Helper()
	l.holds.let([]string{host})
	for _, k := range l.Plan().LinksOf(host) {
		if k.Seat != topo.NoSeat {
			continue // for its agent
		}
		end := k.A
		if k.B.Node == host {
			end = k.B
		}
		if err := l.Fabric().Do(host, func() error {
			p, err := fabric.OpenPort(end.Ifname)
			if err != nil {
				return err
			}
			defer p.Close()
			return p.Up()
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.hypers.own(ctx, host); err != nil {
		t.Fatal(err)
	}
}

// processesOf are those that were told of a file.
func processesOf(t *testing.T, path string) (pids []int) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(text), `"`+path+`"`) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
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
	var c *customer
	t.Cleanup(func() {
		if t.Failed() {
			s, err := l.PairStatus(context.Background(), "shop")
			t.Logf("%+v %v", s, err)
			for _, n := range []string{"shop", "shop-standby"} {
				var out strings.Builder
				cmd := exec.Command("sh", "-c", "ip -br link; tc -s qdisc; tc filter show dev eth0 egress; ip neigh; ss -tan; ping -c 1 -W 1 10.1.4.11")
				cmd.Stdout, cmd.Stderr = &out, &out
				l.Fabric().Start(n, cmd)
				cmd.Wait()
				t.Logf("%s: %s", n, out.String())
			}
			if s != nil {
				for _, x := range s.Seats {
					t.Logf("%+v", x)
					if x != nil {
						t.Logf("%+v %+v now %d", x.Guest, x.Replica, event.Now())
					}
				}
			}
		}
	})
	c = newCustomer(t, l)
	c.forgives = mode == topo.ModeAsync
	synced := func() {
		t.Helper()
		if err := l.Synced(ctx, "shop"); err != nil {
			t.Fatal(err)
		}
	}
	synced()
	c.served(20)
	at := crash(t, l, "texas-h1")
	for w.await("pair.redirected").Attr["seat"] != "shop-standby" {
	}
	c.served(5)
	t.Logf("%s; the longest increment took %v", split(w, at), c.longest())
	c.account(ctx, mode != topo.ModeAsync, false)

	mend(t, ctx, l, "texas-h1")
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
	c.account(ctx, true, false)
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
	for len(w.sub.C) > 0 {
		w.all = append(w.all, <-w.sub.C)
	}
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
