//go:build amd64

package clock

import (
	"testing"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// TestCheapInUML: in a lab kernel the package has put its function in place, and a
// reading costs next to nothing.
func TestCheapInUML(t *testing.T) {
	kerneltest.Need(t)
	if !invariant() {
		t.Skip("the processor's time stamp counter is not invariant")
	}
	if vdsoClockgettimeSym != entry() {
		t.Fatal("readings are system calls")
	}
	least := ^uint64(0)
	for range 1000 {
		began := counter()
		Mono()
		least = min(least, counter()-began)
	}
	t.Logf("a reading takes %d ticks", least)
	if least > dearTicks {
		t.Errorf("a reading takes %d ticks", least)
	}
}
