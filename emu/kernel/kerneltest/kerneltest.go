// Package kerneltest marks the Go tests that need a lab kernel: one with MPLS
// forwarding, VRFs and link impairments, and root inside it.
package kerneltest

import (
	"os"
	"testing"
)

// Need skips the test, and says why, unless it runs inside a lab kernel.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv("VPCLAB_INSIDE") == "" {
		t.Skip("needs a lab kernel: ./run.sh test runs it inside one")
	}
}
