package vmm

import (
	"errors"
	"os"
	"path/filepath"
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

func TestTheRootFileSystemIsInTheFirstPartition(t *testing.T) {
	const linux, protective = 0x83, 0xee // of the second there is one where partitions are in a GPT
	for name, c := range map[string]struct {
		kinds  [4]byte
		signed bool
		want   string
	}{
		"no table":                 {[4]byte{linux}, false, "/dev/vda"},
		"a table without any":      {[4]byte{}, true, "/dev/vda"},
		"one":                      {[4]byte{linux}, true, "/dev/vda1"},
		"two":                      {[4]byte{linux, linux}, true, "/dev/vda1"},
		"the first was taken away": {[4]byte{0, linux, linux}, true, "/dev/vda2"},
		"the last only":            {[4]byte{3: linux}, true, "/dev/vda4"},
		"GPT":                      {[4]byte{protective}, true, "/dev/vda1"},
	} {
		sector := make([]byte, 512)
		for n, kind := range c.kinds {
			sector[446+16*n+4] = kind
		}
		if c.signed {
			sector[510], sector[511] = 0x55, 0xaa
		}
		require.Equal(t, c.want, rootIn(sector), name)
	}
}

func TestAConsoleIsToldOnce(t *testing.T) {
	folder, failed := t.TempDir(), errors.New("it does not run")
	require.Equal(t, failed, WithConsole(failed, folder), "there is no console")
	require.NoError(t, os.WriteFile(filepath.Join(folder, ConsoleFile), []byte("Linux version\nKernel panic\n"), 0o600))
	told := WithConsole(failed, folder)
	require.ErrorIs(t, told, failed)
	require.EqualError(t, told, "it does not run; its console ends with: Linux version\nKernel panic")
	require.Equal(t, told, WithConsole(told, folder))
}
