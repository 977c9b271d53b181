package lab

import (
	"os"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/vmm"
)

func needLong(t *testing.T) {
	t.Helper()
	needGuestQEMU(t)
	if os.Getenv("VPCLAB_LONG") != "1" {
		t.Skip("it takes minutes: VPCLAB_LONG=1")
	}
}

// TestMigrationOfARealVMByQEMU: QEMU's own ways move a VM and its disk, and the
// customer's connection lives on. With VPCLAB_LONG=1: agents are tested on all of
// them without a lab, and a scenario of the library does one in every test run.
func TestMigrationOfARealVMByQEMU(t *testing.T) {
	needLong(t)
	l, _ := deployed(t, realLab)
	ctx := limit(t)
	c := newCustomer(t, l)
	one(t, ctx, l, "texas-h1")
	for i, mode := range vmm.Modes {
		host := []string{"illinois-h1", "texas-h1"}[i%2]
		verify := []string{"pause", "online"}[i%2]
		m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: host, Memory: migrate.Options{Algorithm: mode, Verify: verify}, Within: time.Minute})
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		one(t, ctx, l, host)
		c.served(5)
		proven := verify == "pause" && !vmm.Late(mode)
		if !m.Committed || m.QEMU == nil || m.CarriedOn > 0 || m.Disk == nil || (m.Hash != "" && m.DiskHash != "") != proven {
			t.Errorf("%s: report %+v", mode, m)
		}
		if m.PausedAt == 0 || m.ResumedAt < m.PausedAt || m.Done < m.ResumedAt || m.Counted.Out < m.BytesOut || m.Counted.Out > 2*m.WireOut {
			t.Errorf("%s: report %+v", mode, m)
		}
		t.Logf("%s: %v; paused %v, %d rounds, %d bytes on the wire, %d counted, %d of QEMU's stream, %+v", mode, m.Phases(), m.Pause(), len(m.Rounds), m.WireOut, m.Counted.Out, m.BytesOut, *m.QEMU)
	}
	lost, err := c.lost(ctx)
	c.leave()
	if err != nil || lost > 0 || c.breaks > 0 {
		t.Errorf("%d acknowledged increments are lost, the connection broke %d times (%v), %v", lost, c.breaks, c.last, err)
	}
	t.Logf("%d increments, the longest took %v", c.acked, c.gap)
}

// nativeMishaps are as realMishaps, of migrations by QEMU itself.
var nativeMishaps = []struct {
	algorithm, failAt string
}{
	{vmm.PreCopy, "source-round=error"}, {vmm.PreCopy, "source-round=kill"}, {vmm.Multifd, "target-ready=kill"},
	{vmm.PreCopy, "source-paused=kill"}, {vmm.PreCopy, "source-final=kill"}, {vmm.PreCopy, "source-final=error"},
	{vmm.PreCopy, "target-final=kill"}, {vmm.PreCopy, "target-kept=error"}, {vmm.PreCopy, "target-committed=kill"},
	{vmm.PreCopy, "target-started=kill"}, {vmm.PreCopy, "source-running=kill"},
	{vmm.PostCopy, "source-round=kill"}, {vmm.PostCopy, "target-committed=kill"}, {vmm.PostCopy, "source-running=kill"},
	{vmm.PostCopy, "target-started=kill"},
}

// TestMishapsOfARealVMByQEMU kills agents at steps of migrations by QEMU itself: the
// VM then runs once, and nothing that its customer was told is done is lost.
func TestMishapsOfARealVMByQEMU(t *testing.T) {
	needLong(t)
	l, _ := deployed(t, realLab)
	c := newCustomer(t, l)
	at := "texas-h1"
	one(t, limit(t), l, at)
	for _, x := range nativeMishaps {
		t.Run(x.algorithm+" "+x.failAt, func(t *testing.T) {
			ctx := limit(t)
			c.t = t
			to := map[string]string{"texas-h1": "illinois-h1", "illinois-h1": "texas-h1"}[at]
			began := time.Now()
			m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: to, Memory: migrate.Options{Algorithm: x.algorithm}, FailAt: x.failAt, Within: time.Minute})
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
		})
	}
}
