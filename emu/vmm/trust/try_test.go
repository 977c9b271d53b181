package trust

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/stock"
)

// tcg is what carries guests out everywhere.
const tcg = "tcg"

// found gives what a trial needs, or skips the test.
func found(t *testing.T) (*stock.QEMU, *stock.Image) {
	q, err := stock.FindGuestQEMU(t.Context())
	if stock.IsMissing(err) {
		t.Skip(err)
	}
	require.NoError(t, err)
	i, err := stock.FindImage()
	if stock.IsMissing(err) {
		t.Skip(err)
	}
	require.NoError(t, err)
	return q, i
}

// TestATrial: what the QEMU of this machine is, the trial says; that it can tell is
// seen with one that is known to be bad, if that is here too.
func TestATrial(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	q, i := found(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	v, err := Try(ctx, q, i, tcg)
	if stock.IsMissing(err) {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Logf("%s: trusted: %v, %s (%v)", v.Version, v.Trusted, v.Why, v.Took)
	if strings.HasPrefix(v.Version, "10.0.2 ") {
		require.NoError(t, v.Err())
	}
	bad := &stock.QEMU{Path: "/usr/bin/qemu-system-x86_64", Version: "7.2"}
	if b, err := os.ReadFile("/usr/share/doc/qemu-system-x86/copyright"); err != nil || len(b) == 0 || !is72(t, bad) {
		return
	}
	v, err = Try(ctx, bad, i, tcg)
	require.NoError(t, err)
	t.Logf("7.2: trusted: %v, %s (%v)", v.Trusted, v.Why, v.Took)
	require.ErrorContains(t, v.Err(), bad.Path)
	require.ErrorContains(t, v.Err(), "run.sh guest-qemu")
}

func is72(t *testing.T, q *stock.QEMU) bool {
	t.Setenv("VPCLAB_GUEST_QEMU", q.Path)
	asked, err := stock.FindGuestQEMU(t.Context())
	return err == nil && strings.HasPrefix(asked.Version, "7.2.")
}

// TestAVerdictIsKept for a program as it is, and for no other.
func TestAVerdictIsKept(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	program := filepath.Join(t.TempDir(), "qemu")
	require.NoError(t, os.WriteFile(program, []byte("a program"), 0o700))
	image := filepath.Join(t.TempDir(), "vmlinuz-6.1")
	require.NoError(t, os.WriteFile(image, []byte("a kernel"), 0o600))
	q, i := &stock.QEMU{Path: program, Version: "1.0"}, &stock.Image{Path: image, Release: "6.1"}
	require.Nil(t, Known(q, i, tcg))
	v := &Verdict{QEMU: program, Accel: tcg, Why: "it was seen to"}
	require.NoError(t, v.keep(q, i))
	require.Equal(t, v, Known(q, i, tcg))
	require.Nil(t, Known(q, i, "kvm"))
	require.NoError(t, os.WriteFile(program, []byte("a newer one"), 0o700))
	require.Nil(t, Known(q, i, tcg))
}
