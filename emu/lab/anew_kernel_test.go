package lab

import (
	"errors"
	"testing"

	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/topo"
)

// TestAGuestThatDiesBeforeItsPagesAreThere starts anew from its disk, and its
// fresh memory is not taken for the one that was under way.
func TestAGuestThatDiesBeforeItsPagesAreThere(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, movingLab)
	ctx := limit(t)
	c := newCustomer(t, l)
	m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: "illinois/1", Memory: migrate.Options{Algorithm: migrate.PostCopy}, FailAt: "source-push#3=guest"})
	if m == nil || !m.Committed || !errors.Is(err, hypervisor.ErrAnew) || m.Hash != "" {
		t.Errorf("migration %+v, %v: want it committed, nothing proven, and %q", m, err, hypervisor.ErrAnew)
	}
	c.served(3)
	inOnePlace(t, ctx, l, "illinois-h1")
	if lost, err := c.lost(ctx); err != nil || lost > 0 {
		t.Errorf("%d acknowledged increments are lost, %v", lost, err)
	}
	for to, algorithm := range map[string]string{"texas-h1": migrate.PostCopy, "texas-h2": migrate.Xen5} {
		m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: to, Memory: migrate.Options{Algorithm: algorithm}, FailAt: "source-running=kill"})
		if err != nil {
			t.Fatal(err)
		}
		if m.PausedAt < m.Began || m.Pause() <= 0 || m.Total() <= m.Pause() || m.Began < m.Requested {
			t.Errorf("%s: the report of a migration whose source died says that it began at %d, paused at %d, and took %v", algorithm, m.Began, m.PausedAt, m.Total())
		}
		if m.Disk == nil || m.Disk.Hash != "" {
			t.Errorf("%s: its disk, which nobody has compared, is reported as %+v", algorithm, m.Disk)
		}
		inOnePlace(t, ctx, l, to)
	}
}

// TestAGuestIsMovedColdWithItsDisk by an agent that has just died; then two that
// ask for its migration at a time get it one after the other, or are refused.
func TestAGuestIsMovedColdWithItsDisk(t *testing.T) {
	kerneltest.Need(t)
	l, _ := deployed(t, movingLab)
	ctx := limit(t)
	c := newCustomer(t, l)
	if err := l.hypers.running("texas-h1").Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Operate(ctx, topo.Operation{Do: "move", VM: "shop", Host: "texas/2"}, ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	c.served(3)
	inOnePlace(t, ctx, l, "texas-h2")
	if lost, err := c.lost(ctx); err != nil || lost > 0 {
		t.Errorf("%d acknowledged increments are lost, %v", lost, err)
	}
	// A migration and a cold move at the same time: whichever comes first, the VM
	// is in one place afterwards.
	moved := make(chan error, 1)
	go func() {
		_, err := l.Operate(ctx, topo.Operation{Do: "move", VM: "shop", Host: "texas/1"}, ApplyOptions{})
		moved <- err
	}()
	m, err := l.Migrate(ctx, MigrateRequest{VM: "shop", To: "illinois/1"})
	cold := <-moved
	t.Logf("migration: %v; cold move: %v", err, cold)
	at := "texas-h2"
	switch {
	case m != nil && m.Committed:
		at = "illinois-h1"
		if cold != nil && !errors.Is(cold, ErrMigrating) {
			t.Errorf("cold move: %v", cold)
		}
	case cold == nil:
		at = "texas-h1"
	default:
		t.Errorf("neither was done: %v, %v", err, cold)
	}
	c.served(3)
	if s, err := l.GuestStatus(ctx, "shop"); err == nil && cold == nil {
		at = hostOf(s) // the one that came second counts
	}
	inOnePlace(t, ctx, l, at)
	if lost, err := c.lost(ctx); err != nil || lost > 0 {
		t.Errorf("%d acknowledged increments are lost, %v", lost, err)
	}
}
