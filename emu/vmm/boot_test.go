package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// VMs, and the trial of a QEMU that is to move them, ask the same.
func TestWhatCarriesVMsOut(t *testing.T) {
	for says, want := range map[string]string{"": "tcg", "tcg": "tcg", "kvm": "kvm", "xen": "tcg"} {
		t.Setenv(envAccel, says)
		require.Equal(t, want, Accel(), "%q", says)
	}
}
