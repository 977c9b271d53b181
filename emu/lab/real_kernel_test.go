package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/topo"
)

// realLab is movingLab with a kernel in its VM.
var realLab = strings.NewReplacer(
	"name: moving", "name: real",
	"memory: 8MiB, disk: 8MiB, workload: tpcw", "guest: qemu, memory: 120MiB, disk: 8MiB, workload: tpcw",
).Replace(movingLab)

func needGuestQEMU(t *testing.T) {
	t.Helper()
	kerneltest.Need(t)
	if _, err := stock.FindGuestQEMU(t.Context()); err != nil {
		t.Skip(err)
	}
}

// one checks that a VM is in one place, as inOnePlace does, and that one QEMU is
// left of it; the one that it left may take a moment to end.
func one(t *testing.T, ctx context.Context, l *Lab, host string) {
	t.Helper()
	inOnePlace(t, ctx, l, host)
	deadline := time.Now().Add(10 * time.Second)
	for {
		at := qemusOf(t, l, "shop")
		if len(at) == 1 && at[0] == host {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("QEMUs of shop are at %v: want one, at %s", at, host)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// qemusOf are the hosts in whose folders QEMUs of a VM work.
func qemusOf(t *testing.T, l *Lab, vm string) (hosts []string) {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, d := range dirs {
		at, err := os.Readlink(d)
		name, _ := os.ReadFile(filepath.Join(filepath.Dir(d), "comm"))
		if err == nil && strings.HasPrefix(string(name), "qemu") && filepath.Base(at) == vm && strings.HasPrefix(at, l.hypers.dir) {
			hosts = append(hosts, filepath.Base(filepath.Dir(at)))
		}
	}
	return hosts
}

// TestARealVM: a VM with a kernel of its own and a customer in the enterprise
// moves there and back by our own engine: the connection lives on, and memory and
// disk are proven equal. Then what it does not do is tried, and whoever moves it is
// killed. All is one test, as a VM takes seconds to boot.
func TestARealVM(t *testing.T) {
	needGuestQEMU(t)
	began := time.Now()
	l, _ := deployed(t, realLab)
	t.Logf("deployed in %v", time.Since(began).Round(time.Millisecond))
	c := newCustomer(t, l)
	one(t, limit(t), l, "texas-h1")
	at := "texas-h1"
	t.Run("moves", func(t *testing.T) { at = realVMMoves(t, l, c, at) })
	t.Run("what cannot be", func(t *testing.T) { realVMRefuses(t, limit(t), l) })
	if os.Getenv("VPCLAB_LONG") == "1" {
		t.Run("faults", func(t *testing.T) { realVMFaults(t, l, c, at) })
	}
	for _, x := range realMishaps {
		if x.always || os.Getenv("VPCLAB_LONG") == "1" {
			t.Run(x.algorithm+" "+x.failAt, func(t *testing.T) { at = realVMSurvives(t, l, c, at, x.algorithm, x.failAt) })
		}
	}
}

// realVMMoves moves the shop there and back, and says where it is then.
func realVMMoves(t *testing.T, l *Lab, c *customer, at string) string {
	c.t = t
	sub := l.Subscribe()
	defer sub.Close()
	algorithms := []string{migrate.CloudNet, migrate.Own}
	if os.Getenv("VPCLAB_LONG") == "1" {
		algorithms = append(algorithms, migrate.Xen30, migrate.Own, migrate.CloudNet, migrate.Own, migrate.CBR, migrate.Xen5, migrate.SmartStop, migrate.StopAndCopy)
	}
	for i, algorithm := range algorithms {
		ctx := limit(t)
		m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: across(at), Memory: migrate.Options{Algorithm: algorithm}, Reuse: i >= 2})
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			return l.hypers.record().of("shop")
		}
		at = across(at)
		one(t, ctx, l, at)
		c.served(5)
		n, _ := l.Plan().Node("shop")
		pages := int(n.Guest.Memory) / migrate.PageSize
		if !m.Committed || len(m.Hash) != 64 || m.Disk == nil || len(m.DiskHash) != 64 || m.Verify.Pages != pages || m.Verify.AtPlacing != pages || m.CarriedOn > 0 {
			for len(sub.C) > 0 {
				if e := <-sub.C; e.Node == "shop" {
					t.Logf("%v %s %v", e.T, e.Kind, e.Attr)
				}
			}
			t.Errorf("%s: report %+v", algorithm, m)
		}
		last := m.Rounds[len(m.Rounds)-1]
		t.Logf("%s: %v; paused %v, %d rounds, the last of %d pages and %d bytes, %d bytes on the wire, proof took %v",
			algorithm, m.Phases(), m.Pause(), len(m.Rounds), last.Sent, last.Bytes, m.WireOut, m.Verify.Took)
	}
	lost, err := c.lost(limit(t))
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || lost > 0 || c.breaks > 0 {
		t.Errorf("%d acknowledged increments are lost, the connection broke %d times (%v), %v", lost, c.breaks, c.last, err)
	}
	t.Logf("%d increments, the longest took %v", c.acked, c.gap)
	return at
}

// across is the other of the two hosts that the shop moves between.
func across(host string) string {
	return map[string]string{"texas-h1": "illinois-h1", "illinois-h1": "texas-h1"}[host]
}

// realVMFaults has the VM's keeper killed, and its host's power fail: it boots
// again from its disk.
func realVMFaults(t *testing.T, l *Lab, c *customer, at string) {
	c.t = t
	for _, f := range []topo.Fault{
		{Kind: topo.FaultKill, Process: "guest", VM: "shop", For: topo.Duration(300 * time.Millisecond)},
		{Kind: topo.FaultHostCrash, Host: l.Plan().HostName(at), For: topo.Duration(300 * time.Millisecond)},
	} {
		i, err := l.Inject(limit(t), f)
		if err != nil {
			t.Fatal(err)
		}
		await(t, "the end of the fault", i.Over())
		whole(t, l)
		c.served(3)
		one(t, limit(t), l, at)
		if lost, err := c.lost(limit(t)); err != nil || lost > 0 {
			t.Errorf("%v: %d acknowledged increments are lost, %v", f, lost, err)
		}
	}
}

// realVMRefuses tries what a VM with a kernel of its own does not do.
func realVMRefuses(t *testing.T, ctx context.Context, l *Lab) {
	_, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: "illinois/1", Memory: migrate.Options{Algorithm: migrate.PostCopy}})
	if !errors.Is(err, errBadRequest) || !strings.Contains(err.Error(), "qemu-post-copy") {
		t.Errorf("post-copy: %v", err)
	}
	_, err = l.Exec(ctx, ExecRequest{Node: "shop", Cmd: []string{"true"}})
	if !errors.Is(err, errBadRequest) || !strings.Contains(err.Error(), "--chassis") {
		t.Errorf("a command in it: %v", err)
	}
	if r, err := l.Exec(ctx, ExecRequest{Node: "shop", Cmd: []string{"true"}, Chassis: true}); err != nil || r.Code != 0 {
		t.Errorf("a command beside it: %+v, %v", r, err)
	}
	f, err := l.Console("shop")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); err != nil {
		t.Error(err)
	}
	// Its address is answered for by its own kernel.
	r, err := l.Exec(ctx, ExecRequest{Node: "acme-hq-1", Cmd: []string{"ping", "-c", "1", "-W", "2", strings.Split(addrOf(t, l, "shop"), "/")[0]}})
	if err != nil || r.Code != 0 {
		t.Errorf("ping: %+v, %v", r, err)
	}
	before := qemusOf(t, l, "shop")
	if _, err := l.Apply(ctx, l.Plan()); err != nil {
		t.Errorf("build it once more: %v", err)
	}
	if after := qemusOf(t, l, "shop"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("QEMUs at %v, and %v since it was built once more", before, after)
	}
}

func addrOf(t *testing.T, l *Lab, vm string) string {
	t.Helper()
	n, ok := l.Plan().Node(vm)
	if !ok {
		t.Fatal("no such VM")
	}
	return n.Addr.String()
}

// realMishaps are those of a VM with a kernel of its own. The others are done too
// with VPCLAB_LONG=1.
var realMishaps = []struct {
	algorithm, failAt string
	always            bool
}{
	{migrate.Own, "source-batch=error", false}, {migrate.Own, "source-batch=kill", false}, {migrate.CloudNet, "source-batch=guest", false},
	{migrate.CloudNet, "target-batch=kill", false}, {migrate.Own, "source-batch=cut", false},
	{migrate.Xen5, "source-pause=kill", false}, {migrate.Xen5, "source-paused=kill", true}, {migrate.Own, "source-paused=guest", true},
	{migrate.Xen5, "source-final=kill", false}, {migrate.Own, "target-final=kill", false}, {migrate.Own, "target-kept=kill", false},
	{migrate.Own, "target-kept=error", false}, {migrate.Own, "target-committed=kill", true}, {migrate.Own, "target-committed=guest", false},
	{migrate.Own, "target-started=kill", false}, {migrate.Own, "source-running=kill", false}, {migrate.Own, "source-proof=cut", false},
	{migrate.Own, "disk-in-step=kill", false}, {migrate.Own, "disk-target-settled=kill", false},
}

// realVMSurvives kills an agent or the keeper at a step of a migration: the VM then
// runs once, where that is said here, and nothing that its customer was told is done
// is lost.
func realVMSurvives(t *testing.T, l *Lab, c *customer, at, algorithm, failAt string) string {
	ctx := limit(t)
	c.t = t
	to := across(at)
	if strings.HasSuffix(failAt, "=cut") {
		failAt = strings.TrimSuffix(failAt, "cut") + "hold"
		defer cutWhileHeld(t, ctx, l)()
	}
	began := time.Now()
	m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: to, Memory: migrate.Options{Algorithm: algorithm}, FailAt: failAt})
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
	one(t, ctx, l, at)
	if lost, err := c.lost(ctx); err != nil || lost > 0 {
		t.Errorf("%d acknowledged increments are lost, %v", lost, err)
	}
	return at
}
