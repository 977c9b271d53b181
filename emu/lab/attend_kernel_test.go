package lab

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate"
)

// TestAnAgentThatHangs is no end of the lab: it is stopped while the VM stands,
// at the source and then at the target, and the VM goes on where it belongs.
func TestAnAgentThatHangs(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, movingLab)
	ctx := limit(t)
	c := newCustomer(t, l)
	for _, host := range []string{"texas-h1", "illinois-h1"} {
		sub := l.Subscribe()
		go func() {
			for e := range sub.C {
				if e.Kind == "migration.held" {
					_ = syscall.Kill(l.hypers.running(host).Pid(), syscall.SIGSTOP)
					return
				}
			}
		}()
		began := time.Now()
		m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: "illinois/1", Memory: migrate.Options{Algorithm: migrate.Xen5}, FailAt: "source-paused=hold"})
		sub.Close()
		if err == nil || m == nil || m.Committed {
			t.Fatalf("%s hangs before the VM was given away: %+v, %v", host, m, err)
		}
		if !strings.Contains(err.Error(), "no sign of life") {
			t.Errorf("%s hangs: %v", host, err)
		}
		t.Logf("%s hangs: %v, after %v", host, err, time.Since(began).Round(time.Millisecond))
		c.served(3)
		inOnePlace(t, ctx, l, "texas-h1")
	}
	if _, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: "illinois/1"}); err != nil {
		t.Fatal(err)
	}
	c.served(3)
	inOnePlace(t, ctx, l, "illinois-h1")
	if lost, err := c.lost(ctx); err != nil || lost > 0 {
		t.Errorf("%d acknowledged increments are lost, %v", lost, err)
	}
}
