package vmm

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const testDisk = 4 << 20

// diskOf gives a machine a disk: what is on it, and options of its QEMU.
func diskOf(t *testing.T, seed uint64) (path string, args []string) {
	b := make([]byte, testDisk)
	if seed != 0 {
		r := rand.New(rand.NewPCG(seed, 0))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	}
	path = filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	return path, []string{"-blockdev", "driver=file,node-name=disk,filename=" + path, "-device", "virtio-blk-device,drive=disk"}
}

// TestADiskMovesWithTheVM is in step before the VM stands, and the same when it
// does; one that is given up before leaves a VM that has its disk for itself.
func TestADiskMovesWithTheVM(t *testing.T) {
	for _, givenUp := range []bool{true, false} {
		ctx := soon(t)
		ours, with := diskOf(t, 7)
		from := startMachine(t, "from", strolls, with...)
		theirs, with := diskOf(t, 0)
		to := startMachine(t, "to", strolls, append(with, "-incoming", "defer", "-S")...)
		from.awaitWalk(t)
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		f, err := l.(*net.TCPListener).File()
		require.NoError(t, err)
		at := l.Addr().(*net.TCPAddr).AddrPort()
		require.NoError(t, l.Close())
		require.NoError(t, ServeDisk(ctx, to.Client, f))
		require.NoError(t, f.Close())
		mirror, err := MirrorDisk(ctx, from.Client, netip.AddrPortFrom(at.Addr(), at.Port()))
		require.NoError(t, err)
		require.NoError(t, mirror.InStep(ctx))
		if givenUp {
			require.NoError(t, mirror.Close())
			require.Error(t, from.Execute(ctx, "blockdev-del", map[string]any{"node-name": mirrorNode}, nil), "it should be gone")
			continue
		}
		out, in := begin(t, from, to, OutgoingOptions{Mode: PreCopy, Parameters: slowly, Switch: func(ctx context.Context) error { return mirror.End(ctx) }})
		require.NoError(t, out.Run(ctx))
		require.NoError(t, in.Loaded(ctx))
		require.NoError(t, mirror.Close())
		require.NoError(t, UnserveDisk(ctx, to.Client))
		require.NoError(t, to.Execute(ctx, "cont", nil, nil))
		to.requireGoesOn(t)
		a, err := os.ReadFile(ours)
		require.NoError(t, err)
		b, err := os.ReadFile(theirs)
		require.NoError(t, err)
		require.True(t, string(a) == string(b), "the disks differ")
		r := mirror.Report(testDisk)
		require.Less(t, r.Began, r.InStep)
		require.Less(t, r.InStep, r.Settled)
		require.Equal(t, testDisk/pageSize, r.Blocks)
		require.GreaterOrEqual(t, r.Sent, r.Blocks)
	}
}
