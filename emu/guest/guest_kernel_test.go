package guest

import (
	"testing"

	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
)

// What depends on the kernel besides: its shared memory, its userfaultfd, its
// timers and sockets.
func TestGuestInALabKernel(t *testing.T) {
	kerneltest.Need(t)
	for name, test := range map[string]func(*testing.T){
		"moves":   TestGuestMovesWithItsClients,
		"missing": TestGuestRunsWhilePagesAreMissing,
		"agents":  TestMissingPagesOutliveTheirServer,
		"holes":   TestAbsentKnowsHoles,
		"reboots": TestGuestRebootsWithItsLedger,
	} {
		t.Run(name, test)
	}
}
