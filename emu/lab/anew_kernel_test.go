package lab

import (
	"errors"
	"testing"

	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/emu/migrate"
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
	if m, err = l.Migrate(ctx, MigrateRequest{VM: "shop", To: "texas/1", Memory: migrate.Options{Algorithm: migrate.PostCopy}, FailAt: "source-running=kill"}); err != nil {
		t.Fatal(err)
	}
	if m.PausedAt < m.Began || m.Pause() <= 0 || m.Total() <= 0 || m.Began < m.Requested {
		t.Errorf("the report of a migration whose source died says that it began at %d, paused at %d, and took %v", m.Began, m.PausedAt, m.Total())
	}
	inOnePlace(t, ctx, l, "texas-h1")
}
