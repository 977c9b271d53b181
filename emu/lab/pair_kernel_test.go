package lab

import (
	"context"
	"fmt"
	"os"
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
  shop: {vpc: acme, host: texas/1, memory: 4MiB, disk: 4MiB, standby: {host: illinois/1, mode: MODE, silence: 200ms}}
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

// TestHostIsLost: a protected VM goes on in another cloud when its host loses
// power, with its customer's connection.
func TestHostIsLost(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, pairedText("vpls", "checkpoint"))
	ctx := limit(t)
	w := watch(t, l)
	c := newCustomer(t, l)
	if err := l.pairs.wait(ctx, "shop", func(k protected) bool { return k.synced }); err != nil {
		t.Fatal(err)
	}
	c.served(20)
	at := crash(t, l, "texas-h1")
	w.await("pair.redirected")
	c.served(5)
	served := event.Now()
	lost, err := c.lost(ctx)
	c.leave()
	if err != nil || lost > 0 || c.breaks > 0 {
		t.Errorf("%d acknowledged increments are lost, the connection broke %d times (%v), %v", lost, c.breaks, c.last, err)
	}
	t.Logf("%s; five answers later %v; the longest increment of %d took %v", split(w, at), served.Sub(at), c.acked, c.gap)
	w.log()
}
