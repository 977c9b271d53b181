package fabric_test

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/kernel/kerneltest"
	"github.com/vpclab/vpclab/topo"
)

// here is the namespace of the calling thread.
func here() (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat("/proc/thread-self/ns/net", &st)
	return st.Ino, err
}

// TestNobodyIsLeftInAWrongNamespace looks into nodes from many goroutines
// while the lab changes under them. Each sees the node that it asked for, and
// in the end all threads of the process are where it began.
func TestNobodyIsLeftInAWrongNamespace(t *testing.T) {
	kerneltest.Need(t)
	home, err := here()
	require.NoError(t, err)
	f := start(t, "crowd")
	apply(t, f, star(6, topo.Impairment{}))
	var wg sync.WaitGroup
	for g := range 6 {
		node := fmt.Sprintf("h%d", g+1)
		wg.Go(func() {
			for range 15 {
				var want unix.Stat_t
				err := unix.Stat(f.NSPath(node), &want)
				seen := uint64(0)
				if err == nil {
					err = f.Do(node, func() (err error) { seen, err = here(); return err })
				}
				if gone := errors.Is(err, fabric.ErrNoNode) || errors.Is(err, unix.ENOENT); gone && g == 5 {
					continue // it comes and goes
				}
				if err != nil || seen != want.Ino && g != 5 {
					t.Errorf("%s: in %d, want %d: %v", node, seen, want.Ino, err)
				}
				if _, err := f.Inspect(node); err != nil && g != 5 {
					t.Errorf("inspect %s: %v", node, err)
				}
			}
		})
	}
	for range 5 {
		apply(t, f, star(5, topo.Impairment{}))
		apply(t, f, star(6, topo.Impairment{}))
	}
	cmd := exec.Command("true")
	require.NoError(t, f.Start("h1", cmd))
	require.NoError(t, cmd.Wait())
	wg.Wait()
	var held sync.WaitGroup // makes each goroutine take a thread of its own
	held.Add(32)
	for range 32 {
		wg.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			held.Done()
			held.Wait()
			if ino, err := here(); err != nil || ino != home {
				t.Errorf("a thread is in namespace %d, the process began in %d: %v", ino, home, err)
			}
		})
	}
	wg.Wait()
}
