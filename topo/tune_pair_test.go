package topo

import (
	"os"
	"testing"
)

// TestNoGuestNoStandby: what would take over from a VM in which nothing runs goes
// with its guest.
func TestNoGuestNoStandby(t *testing.T) {
	src, err := os.ReadFile("testdata/good/standby.vpclab.yml")
	if err != nil {
		t.Fatal(err)
	}
	plan := mustExpand(t, mustParse(t, string(src)))
	if len(plan.Pairs()) == 0 {
		t.Fatal("the file has no pair")
	}
	vm := plan.Pairs()[0].VM
	if _, has := plan.WithGuest(vm, nil).PairOf(vm); has {
		t.Errorf("%s has no guest and is a pair", vm)
	}
	if _, has := plan.PairOf(vm); !has {
		t.Error("the plan itself was changed")
	}
}
