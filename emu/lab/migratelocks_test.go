package lab

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/fabric"
)

const twoGuests = `name: t
topology:
  backbone: {pe: [pe1, pe2], links: [{between: [pe1, pe2]}]}
  sites:
    texas: {kind: cloud, pe: pe1, hosts: 2}
    illinois: {kind: cloud, pe: pe2}
vpcs: {acme: {service: vpls, sites: [texas, illinois]}}
vms:
  db: {vpc: acme, host: texas/1, memory: 8MiB}
  shop: {vpc: acme, host: texas/1, memory: 8MiB}
`

// planned is a lab with a plan and a record, and nothing in the kernel.
func planned(t *testing.T) *Lab {
	t.Helper()
	l := New(Config{Name: "t"})
	l.plan, l.fabric = planOf(t, twoGuests), &fabric.Fabric{}
	l.hypers.owners = &owners{host: map[string]string{}, verdict: map[[16]byte]verdict{}}
	for _, g := range l.plan.Guests() {
		if err := l.hypers.owners.set(g.Name, g.Host); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func entered(t *testing.T, l *Lab, vm string) *migration {
	t.Helper()
	m, err := l.newMigration(MigrateRequest{VM: vm, To: "illinois/1"})
	if err != nil {
		t.Fatal(err)
	}
	m.life, m.end = context.WithCancelCause(t.Context())
	l.migrations[vm] = m
	return m
}

// soon fails unless fn returns.
func soon(t *testing.T, what string, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatalf("%s: it still waits after 5 s", what)
	}
}

// TestAChangeAndAPortDoNotWaitForEachOther: whoever builds the lab asks where
// VMs are plugged in, and a VM that stands waits with its port for the building
// to end; other migrations begin meanwhile.
func TestAChangeAndAPortDoNotWaitForEachOther(t *testing.T) {
	l := planned(t)
	m := entered(t, l, "shop")
	l.plugging.Lock() // somebody builds
	plugged := make(chan struct{})
	go func() {
		defer close(plugged)
		m.plug(t.Context())
	}()
	for deadline := time.Now().Add(5 * time.Second); len(m.port) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the port is not asked for")
		}
	}
	soon(t, "ask where the VMs are plugged in", func() {
		if _, err := l.relocate(l.Plan()); err != nil {
			t.Error(err)
		}
	})
	soon(t, "begin to migrate another VM of the host", func() {
		if _, err := l.beginMigration(t.Context(), MigrateRequest{VM: "db", To: "texas/2"}); err != nil {
			t.Error(err)
		}
	})
	soon(t, "commit", func() {
		if err := (arbiter{l}).Commit(t.Context(), "shop", m.move.ID); err != nil {
			t.Error(err)
		}
	})
	l.plugging.Unlock()
	soon(t, "move the port", func() { <-plugged })
}

// TestAMigrationThatEndsLateLeavesTheNextAlone: settle takes a migration out
// before the lab has been told, and another of the VM may have begun when the
// first returns.
func TestAMigrationThatEndsLateLeavesTheNextAlone(t *testing.T) {
	l := planned(t)
	first := entered(t, l, "shop")
	l.endMigration(first)
	second := entered(t, l, "shop")
	l.endMigration(first)
	if l.migrationOf("shop") != second {
		t.Fatal("the second migration of the VM is not known any more")
	}
}

// TestAMigrationWaitsForAChangeThatIsUnderWay: the change may move the VM.
func TestAMigrationWaitsForAChangeThatIsUnderWay(t *testing.T) {
	l := planned(t)
	if err := l.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.beginMigration(short, MigrateRequest{VM: "shop", To: "illinois/1"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("begun while the lab was changed: %v", err)
	}
	// It has carried the VM to another host, and failed after that.
	if err := l.hypers.owners.set("shop", "texas-h2"); err != nil {
		t.Fatal(err)
	}
	l.give()
	if _, err := l.beginMigration(t.Context(), MigrateRequest{VM: "shop", To: "illinois/1"}); !errors.Is(err, errBadRequest) {
		t.Errorf("begun where the VM is not: %v", err)
	}
	if len(l.migrations) > 0 {
		t.Errorf("%d migrations are under way", len(l.migrations))
	}
}

// TestDestroyEndsMigrations before it takes away what they work on.
func TestDestroyEndsMigrations(t *testing.T) {
	l := planned(t)
	m := entered(t, l, "shop")
	go func() {
		<-m.life.Done()
		l.endMigration(m)
		close(m.ended)
	}()
	soon(t, "destroy", func() {
		if err := l.destroy(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if cause := context.Cause(m.life); !errors.Is(cause, errDestroyed) {
		t.Errorf("the migration has ended by %v", cause)
	}
	if _, err := l.Migrate(t.Context(), MigrateRequest{VM: "shop", To: "illinois/1"}); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("a migration in a lab that is gone: %v", err)
	}
	if _, err := l.hypers.agent(t.Context(), l.Plan(), "texas-h1"); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("an agent in a lab that is gone: %v", err)
	}
}
