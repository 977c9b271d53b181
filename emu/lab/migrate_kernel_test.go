package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/topo"
)

const movingLab = `name: moving
topology:
  backbone:
    pe: [pe1, pe2]
    p: [p1]
    links: [{between: [pe1, p1], delay: 0.3ms}, {between: [pe2, p1], delay: 0.3ms}]
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2}
    illinois: {kind: cloud, pe: pe2}
    hq: {kind: enterprise, pe: pe2}
vpcs:
  acme: {service: vpls, sites: [texas, hq]}
vms:
  shop: {vpc: acme, host: texas/1, memory: 8MiB, disk: 8MiB, workload: tpcw}
`

// customer is somebody in the enterprise who uses a guest all the time, over
// one connection as long as that lives.
type customer struct {
	t    *testing.T
	lab  *Lab
	addr string
	stop context.CancelFunc
	done chan struct{}
	news chan struct{} // an increment more was done

	mu     sync.Mutex
	acked  uint64 // increments that the guest said are done
	breaks int    // connections that ended
	gap    time.Duration
	last   error

	forgives bool   // the guest may lose increments
	forgiven uint64 // that it has lost
}

const (
	customerID       = 7
	customerPatience = 4 * time.Second
)

func newCustomer(t *testing.T, l *Lab) *customer {
	t.Helper()
	shop, _ := l.Plan().Node("shop")
	ctx, stop := context.WithCancel(t.Context())
	c := &customer{t: t, lab: l, addr: fmt.Sprintf("%s:%d", shop.Addr, shop.Guest.Port), stop: stop, done: make(chan struct{}), news: make(chan struct{}, 1)}
	go func() {
		defer close(c.done)
		for ctx.Err() == nil {
			c.visit(ctx)
		}
	}()
	t.Cleanup(c.leave)
	c.served(10)
	return c
}

// dial connects from the enterprise.
func (c *customer) dial(ctx context.Context, acked uint64) (*guest.Client, error) {
	var conn net.Conn
	err := c.lab.Fabric().Do("acme-hq-1", func() (err error) {
		d := net.Dialer{Timeout: time.Second}
		conn, err = d.DialContext(ctx, "tcp4", c.addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return guest.NewClient(conn, customerID, acked), nil
}

// visit uses one connection until it breaks.
func (c *customer) visit(ctx context.Context) {
	c.mu.Lock()
	acked := c.acked
	c.mu.Unlock()
	conn, err := c.dial(ctx, acked)
	if err != nil {
		c.refused(err) // none broke: there was none
		return
	}
	defer conn.Close()
	if conn, err = c.reconcile(ctx, conn); err != nil {
		c.note(ctx, err)
		return
	}
	for ctx.Err() == nil {
		began := time.Now()
		// A guest that is killed while its port moves may reset the connection in
		// vain: its customer has to give up by himself.
		one, cancel := context.WithTimeout(ctx, customerPatience)
		_, err := conn.Do(one, guest.Increment)
		cancel()
		if err != nil {
			c.note(ctx, err)
			return
		}
		c.mu.Lock()
		c.acked, c.gap = conn.Acked(), max(c.gap, time.Since(began))
		c.mu.Unlock()
		select {
		case c.news <- struct{}{}:
		default:
		}
	}
}

// reconcile asks a guest that may have lost some of the increments how many it
// has, and goes on from there.
func (c *customer) reconcile(ctx context.Context, conn *guest.Client) (*guest.Client, error) {
	if !c.forgives {
		return conn, nil
	}
	one, cancel := context.WithTimeout(ctx, customerPatience)
	defer cancel()
	a, err := conn.Do(one, guest.Count)
	if err != nil {
		return conn, err
	}
	c.mu.Lock()
	if a.Value < c.acked {
		c.forgiven += c.acked - a.Value
	}
	c.acked = a.Value
	c.mu.Unlock()
	conn.Close()
	return c.dial(ctx, a.Value)
}

// refused notes why there is no connection.
func (c *customer) refused(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = err
}

// note notes why one broke.
func (c *customer) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // it left
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breaks++
	c.last = err
}

func (c *customer) leave() {
	c.stop()
	<-c.done
}

// served waits until n more increments were done.
func (c *customer) served(n uint64) {
	c.t.Helper()
	c.mu.Lock()
	until := c.acked + n
	c.mu.Unlock()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		c.mu.Lock()
		acked := c.acked
		c.mu.Unlock()
		if acked >= until {
			return
		}
		select {
		case <-c.news:
		case <-deadline.C:
			c.mu.Lock()
			acked, last := c.acked, c.last
			c.mu.Unlock()
			c.t.Fatalf("the guest has done %d increments for its customer in 30 s, not %d: %v", acked, until, last)
		}
	}
}

// lost is how many acknowledged increments the guest does not know of.
func (c *customer) lost(ctx context.Context) (int64, error) {
	c.mu.Lock()
	acked := c.acked
	c.mu.Unlock()
	conn, err := c.dial(ctx, acked)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	a, err := conn.Do(ctx, guest.Count)
	return int64(acked) - int64(a.Value), err
}

// inOnePlace checks that the shop runs at the host, once, with its network
// there, and has found nothing wrong with itself.
func inOnePlace(t *testing.T, ctx context.Context, l *Lab, host string) {
	t.Helper()
	inOnePlaceOf(t, ctx, l, "shop", host)
}

func inOnePlaceOf(t *testing.T, ctx context.Context, l *Lab, vm, host string) {
	t.Helper()
	s, err := l.GuestStatus(ctx, vm)
	if err != nil {
		t.Fatalf("the guest does not answer: %v", err)
	}
	n, _ := l.Plan().Node(vm)
	port := ""
	for _, k := range l.Fabric().Current().Links {
		if k.A.Node == vm {
			port = k.B.Node
		}
	}
	if got := hostOf(s); got != host || !s.Running || s.Fault != "" || n.Host != host || port != host || l.hypers.record().of(vm) != host {
		t.Fatalf("%s runs %v on the memory of %s (fault %q), is plugged into %s, the plan has it on %s and the record on %s: want all on %s",
			vm, s.Running, got, s.Fault, port, n.Host, l.hypers.record().of(vm), host)
	}
	if pids := guestProcesses(t, vm); len(pids) != 1 {
		t.Fatalf("processes of %s: %v: want one", vm, pids)
	}
}

// guestProcesses are the processes of a guest on this kernel.
func guestProcesses(t *testing.T, vm string) (pids []string) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if args := strings.Split(string(text), "\x00"); err == nil && len(args) > 2 && args[1] == guest.Verb && strings.Contains(args[2], `"Name":"`+vm+`"`) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// TestMigration: a VM with a customer in the enterprise moves to a cloud that is
// not in its VPC yet, and back over the same hosts: the connection lives on, and
// memory and disk are proven equal.
func TestMigration(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, movingLab)
	ctx := limit(t)
	c := newCustomer(t, l)
	inOnePlace(t, ctx, l, "texas-h1")
	sub := l.Subscribe()
	defer sub.Close()
	algorithms := []string{migrate.Xen30, migrate.CloudNet, migrate.Own, migrate.PostCopy}
	if os.Getenv("VPCLAB_LONG") == "1" {
		algorithms = append(algorithms, migrate.Hybrid, migrate.StopAndCopy)
	}
	for i, algorithm := range algorithms {
		to, host := "illinois/1", "illinois-h1"
		if i%2 == 1 {
			to, host = "texas-h1", "texas-h1" // by its node's name
		}
		m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: to, Memory: migrate.Options{Algorithm: algorithm}, Reuse: i >= 2})
		if err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		inOnePlace(t, ctx, l, host)
		c.served(5)
		if !m.Committed || len(m.Hash) != 64 || m.Disk == nil || len(m.DiskHash) != 64 || m.Reached < m.PausedAt || m.WireOut < 100_000 || m.CarriedOn > 0 {
			for len(sub.C) > 0 {
				if e := <-sub.C; e.Node == "shop" {
					t.Logf("%v %s %v", e.T, e.Kind, e.Attr)
				}
			}
			t.Errorf("%s: report %+v", algorithm, m)
		}
		if m.Counted.Out < m.WireOut*95/100 || m.Counted.Out > m.WireOut*105/100 {
			t.Errorf("%s: its connections carried %d bytes, and its host sent %d", algorithm, m.Counted.Out, m.WireOut)
		}
		t.Logf("%s: %v; paused %v, %d bytes on the wire, %d back", algorithm, m.Phases(), m.Pause(), m.WireOut, m.WireBack)
	}
	lost, err := c.lost(ctx)
	c.leave()
	if err != nil || lost > 0 || c.breaks > 0 {
		t.Errorf("%d acknowledged increments are lost, the connection broke %d times (%v), %v", lost, c.breaks, c.last, err)
	}
	t.Logf("%d increments, the longest took %v", c.acked, c.gap)
}

// TestMigrationOfAGroup: VMs that arrive together are paused when all are ready,
// and what each has on the wire is told apart from the others'.
func TestMigrationOfAGroup(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, strings.Replace(movingLab, "vms:\n", "vms:\n  db: {vpc: acme, host: texas/1, memory: 8MiB, workload: kernelbuild}\n", 1))
	ctx := limit(t)
	alone, err := l.Migrate(ctx, MigrateRequest{VM: "db", To: "illinois/1", Memory: migrate.Options{Algorithm: migrate.Xen5}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Migrate(ctx, MigrateRequest{VM: "db", To: "texas/1", Memory: migrate.Options{Algorithm: migrate.StopAndCopy}}); err != nil {
		t.Fatal(err)
	}
	all, err := l.MigrateAll(ctx, []MigrateRequest{
		{VM: "shop", To: "illinois/1", Memory: migrate.Options{Algorithm: migrate.CloudNet}},
		{VM: "db", To: "illinois/1", Memory: migrate.Options{Algorithm: migrate.Xen5}},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	shop, db := all[0], all[1]
	if apart := shop.PausedAt.Sub(db.PausedAt).Abs(); apart > 2*time.Second {
		t.Errorf("they were paused %v apart", apart)
	}
	first := max(shop.Rounds[0].Ended, db.Rounds[0].Ended)
	if shop.PausedAt < first || db.PausedAt < first {
		t.Error("one was paused before the other could be")
	}
	t.Logf("paused at %d and %d; on the wire %d and %d bytes, one of them alone %d", shop.PausedAt, db.PausedAt, shop.WireOut, db.WireOut, alone.WireOut)
	if db.WireOut < db.BytesOut || db.WireOut > db.BytesOut*6/5 {
		t.Errorf("%d bytes on the wire in a group, of which TCP was given %d", db.WireOut, db.BytesOut)
	}
	_, err = l.MigrateAll(ctx, []MigrateRequest{{VM: "shop", To: "texas/1"}, {VM: "db", To: "nowhere/1"}}, true)
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a group of which one cannot move: %v", err)
	}
	inOnePlaceOf(t, ctx, l, "shop", "texas-h1")
	inOnePlaceOf(t, ctx, l, "db", "illinois-h1")
}

// TestMigrationsThatCannotBe are refused before anything is done.
func TestMigrationsThatCannotBe(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, strings.Replace(movingLab, "vms:\n", "vms:\n  bare: {vpc: acme, host: texas/2}\n", 1))
	ctx := limit(t)
	var none *NoSuchError
	var operation *topo.OperationError
	for _, c := range []struct {
		req  MigrateRequest
		as   any
		is   error
		want string
	}{
		{req: MigrateRequest{VM: "shup", To: "illinois/1"}, as: &none, want: "did you mean"},
		{req: MigrateRequest{VM: "shop", To: "illinois/7"}, as: &operation, want: "site illinois has 1 host"},
		{req: MigrateRequest{VM: "shop", To: "texas/1"}, as: &operation, want: "there already"},
		{req: MigrateRequest{VM: "shop", To: "hq/1"}, as: &operation, want: "no cloud"},
		{req: MigrateRequest{VM: "bare", To: "illinois/1"}, is: errBadRequest, want: "nothing runs in bare"},
		{req: MigrateRequest{VM: "shop", To: "illinois/1", FailAt: "somewhere=kill"}, is: errBadRequest, want: "there is no step"},
		{req: MigrateRequest{VM: "shop", To: "illinois/1", Memory: migrate.Options{Algorithm: "magic"}}, want: "magic"},
	} {
		_, err := l.Migrate(ctx, c.req)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.as != nil && !errors.As(err, c.as) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%+v: %v: want %q", c.req, err, c.want)
		}
	}
	inOnePlace(t, ctx, l, "texas-h1")
}

// mishaps are migrations that go wrong: at which step what is done. The others
// are done too with VPCLAB_LONG=1.
var mishaps = []struct {
	algorithm, failAt string
	always            bool
}{
	// The disk.
	{migrate.Xen30, "disk-batch=kill", false}, {migrate.Xen30, "disk-target-batch=kill", false}, {migrate.Xen30, "disk-in-step=kill", true},
	{migrate.Xen30, "disk-in-step=cut", false}, {migrate.Xen30, "disk-batch=guest", false}, {migrate.Xen30, "disk-settle=kill", false},
	{migrate.Xen30, "disk-target-settled=kill", true}, {migrate.Xen30, "disk-target-proof=kill", false},
	// Memory, while the VM runs.
	{migrate.CloudNet, "source-ready=kill", false}, {migrate.CloudNet, "target-batch=kill", false}, {migrate.CloudNet, "source-batch=error", false},
	{migrate.Own, "source-batch=cut", false}, {migrate.Own, "source-batch=guest", false},
	// The hand-over.
	{migrate.Xen5, "source-pause=kill", false}, {migrate.Xen5, "source-paused=kill", true}, {migrate.Xen5, "source-paused=guest", true},
	{migrate.Xen5, "source-paused=cut", false}, {migrate.Xen5, "source-final=kill", true}, {migrate.Xen5, "target-final=kill", false},
	{migrate.Xen5, "target-kept=kill", true}, {migrate.Xen5, "target-kept=error", false}, {migrate.Xen5, "target-committed=kill", true},
	{migrate.Xen5, "target-committed=guest", false}, {migrate.Xen5, "target-committed=cut", false}, {migrate.Xen5, "target-started=kill", false},
	// Afterwards.
	{migrate.Xen5, "source-running=kill", false}, {migrate.Xen5, "target-check=kill", false}, {migrate.Xen5, "source-proof=cut", false},
	{migrate.PostCopy, "target-committed=kill", false}, {migrate.PostCopy, "source-push=kill", false}, {migrate.PostCopy, "target-place=kill", true},
	{migrate.PostCopy, "source-push=cut", true}, {migrate.PostCopy, "source-push=guest", false},
}

// TestMishaps kills agents and guests and cuts the WAN at steps of migrations:
// the VM then runs in exactly one place, and nothing that its customer was told
// is done is lost.
func TestMishaps(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, movingLab)
	c := newCustomer(t, l)
	at := "texas-h1"
	for _, x := range mishaps {
		if !x.always && os.Getenv("VPCLAB_LONG") != "1" {
			continue
		}
		t.Run(x.algorithm+" "+x.failAt, func(t *testing.T) {
			ctx := limit(t)
			c.t = t
			to := map[string]string{"texas-h1": "illinois-h1", "illinois-h1": "texas-h1"}[at]
			failAt, cut := x.failAt, strings.HasSuffix(x.failAt, "=cut")
			if cut {
				failAt = strings.TrimSuffix(failAt, "cut") + "hold"
				defer cutWhileHeld(t, ctx, l)()
			}
			began := time.Now()
			m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: to, Memory: migrate.Options{Algorithm: x.algorithm}, FailAt: failAt})
			if m == nil {
				t.Fatal(err)
			}
			if m.Committed {
				at = to
			}
			t.Logf("after %v: committed %v, carried on %d times: %v", time.Since(began).Round(time.Millisecond), m.Committed, m.CarriedOn, err)
			if err == nil && !m.Committed {
				t.Error("no error, and the VM is where it was")
			}
			c.served(3)
			inOnePlace(t, ctx, l, at)
			if lost, err := c.lost(ctx); err != nil || lost > 0 {
				t.Errorf("%d acknowledged increments are lost, %v", lost, err)
			}
		})
	}
}

// cutWhileHeld takes a link of the WAN down when a migration stands at the step
// that it is held at, lets it go on, and brings the link back.
func cutWhileHeld(t *testing.T, ctx context.Context, l *Lab) (wait func()) {
	t.Helper()
	sub := l.Subscribe()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			var e event.Event
			select {
			case e = <-sub.C:
			case <-ctx.Done():
				return
			}
			if e.Kind != "migration.held" {
				continue
			}
			m := l.migrationOf("shop")
			change := func(do string) {
				if _, err := l.Operate(ctx, topo.Operation{Do: do, Link: []string{"pe1", "p1"}}, ApplyOptions{Trust: true}); err != nil {
					t.Errorf("%s: %v", do, err)
				}
			}
			change("fail")
			for _, host := range []string{m.from, m.to} {
				_ = l.hypers.running(host).Release(ctx, m.move) // one of them holds
			}
			time.Sleep(300 * time.Millisecond) // how long the WAN is away
			change("restore")
			return
		}
	}()
	return func() {
		cancel()
		<-done
		sub.Close()
	}
}
