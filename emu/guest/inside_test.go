package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// device makes a file that can stand for a block device: it takes transfers past
// the cache.
func device(t *testing.T, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "vpclab-device") // /tmp may be in memory, where there is no past the cache
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "vda")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("the file system of /var/tmp takes no transfers past the cache")
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return path
}

// What is beside a write stays, wherever its ends are.
func TestDirectWritesAnywhere(t *testing.T) {
	const size = 1 << 20
	d, err := openDirect(device(t, size), size)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	want := make([]byte, size)
	for i, c := range []struct{ off, n int }{{0, 512}, {1, 1}, {511, 2}, {513, 4096}, {4095, 300 << 10}, {size - 3, 3}, {100 << 10, directBuffer}, {7, 0}} {
		b := bytes.Repeat([]byte{byte(i + 1)}, c.n)
		copy(want[c.off:], b)
		if n, err := d.WriteAt(b, int64(c.off)); n != c.n || err != nil {
			t.Fatalf("write %d bytes at %d: %d, %v", c.n, c.off, n, err)
		}
		got := make([]byte, c.n+min(8, size-c.off-c.n))
		if _, err := d.ReadAt(got, int64(c.off)); err != nil || !bytes.Equal(got, want[c.off:c.off+len(got)]) {
			t.Errorf("%d bytes at %d read back wrong: %v", c.n, c.off, err)
		}
	}
	got := make([]byte, size)
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("all of it, read back, differs: %v", err)
	}
	if _, err := openDirect(d.file.Name(), 2*size); err == nil || !strings.Contains(err.Error(), "want 2097152") {
		t.Errorf("a device of another size: %v", err)
	}
}

// A write to a device counts after a flush, and after one that failed none does.
func TestDeviceCountsWhatWasFlushed(t *testing.T) {
	const size = 1 << 20
	failed := make(chan error, 1)
	d, err := openDevice(device(t, size), size, func(err error) { failed <- err })
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Begin(make([]byte, 100), 5)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("waited 10 s for a write to count")
	}
	d.device.file.Close()
	d.mirror.report(0, nil, func() { t.Error("a write counts that was never flushed") })
	select {
	case err := <-failed:
		if !strings.Contains(err.Error(), "flush the disk") {
			t.Errorf("it failed: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("waited 10 s for word of the flush that failed")
	}
}

// insideGuest is one without a VM, on a file for a device.
func insideGuest(t *testing.T, workload string) (*Inside, Spec, string) {
	t.Helper()
	spec := Spec{Name: "shop", Kind: KindQEMU, Memory: 64 << 20, Work: 8 << 20, Disk: 4 << 20, Workload: workload, Seed: 11}
	path := device(t, spec.Disk)
	i, err := NewInside(spec, path)
	if err != nil {
		t.Fatal(err)
	}
	return i, spec, path
}

// What runs in a VM of its own does the same work on the same bytes as a process
// guest of as much memory.
func TestInsideDoesTheWorkOfAProcessGuest(t *testing.T) {
	i, spec, _ := insideGuest(t, TPCW)
	spec.Kind, spec.Memory, spec.Work = KindProcess, spec.Work, 0
	r, err := NewReplay(spec, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.memory.Close()
	for range 100 {
		i.m.step()
		if err := r.work.step(r.memory); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(i.m.memory.Bytes(), r.memory.Bytes()) {
		t.Error("after 100 steps its memory differs from a process guest's")
	}
	if s := i.Status(); s.Steps != 100 || s.Fault != "" || s.Folder != "" || !s.Running {
		t.Errorf("its status is %+v", s)
	}
}

// Every byte of the memory and of the blocks that were written is looked at.
func TestInsideVerifyFindsOneByte(t *testing.T) {
	for name, spoil := range map[string]func(i *Inside, path string) string{
		"nothing": func(*Inside, string) string { return "" },
		"the last byte of a page of the workload": func(i *Inside, _ string) string {
			q := 0
			for i.m.work.(*player).role[q] == roleApp {
				q++
			}
			i.m.memory.Bytes()[(q+1)*PageSize-1] ^= 1
			return fmt.Sprintf("page %d,", q)
		},
		"a page of the server": func(i *Inside, _ string) string {
			q := i.m.app.pages[3]
			i.m.memory.Bytes()[int(q)*PageSize+PageSize-1] ^= 1
			return fmt.Sprintf("page %d, of the server", q)
		},
		"a former block of the disk": func(i *Inside, path string) string {
			for block := range i.m.app.blocks {
				b := make([]byte, PageSize)
				seal(b, i.m.spec.Seed, block, i.m.app.blocks[block]-1)
				if _, err := i.m.disk.device.WriteAt(b, int64(block)*PageSize); err != nil {
					panic(err)
				}
				return fmt.Sprintf("block %d of the disk", block)
			}
			return "no block was written"
		},
		"a record of the ledger": func(i *Inside, _ string) string {
			if _, err := i.m.disk.device.WriteAt(make([]byte, recordSize), recordPlace(2)); err != nil {
				panic(err)
			}
			return "ledger on disk"
		},
	} {
		t.Run(name, func(t *testing.T) {
			i, _, path := insideGuest(t, KernelBuild)
			for range 20 {
				i.m.step()
			}
			for n := range uint64(3) {
				if _, wrong, err := i.m.app.do(i.m.memory, ask{kind: Buy, client: 5, count: n + 1}); wrong != nil || err != nil {
					t.Fatal(wrong, err)
				}
			}
			want := spoil(i, path)
			v := i.Verify()
			if v.Pages != 2048 || v.Blocks == 0 {
				t.Errorf("it looked at %d pages and %d blocks", v.Pages, v.Blocks)
			}
			if want == "" && v.Bad != 0 || want != "" && (v.Bad != 1 || !strings.Contains(v.First, want)) {
				t.Errorf("%d are bad, first %q; want %q", v.Bad, v.First, want)
			}
			if s := i.Status(); (s.Fault != "") != (want != "") {
				t.Errorf("its fault is %q", s.Fault)
			}
		})
	}
}

// A guest that is too slow for its schedule leaves steps out, and says how many:
// what is done and what is left out together are what was due.
func TestInsideLeavesOutWhatItCannotDo(t *testing.T) {
	i, _, _ := insideGuest(t, Idle)
	tick := i.m.work.tick()
	i.m.steps.Store(100)
	i.m.leaveOut(100+uint64(insideSlack/tick), tick)
	if late := i.Status().Late; late != 0 {
		t.Errorf("%d steps left out that are not too late", late)
	}
	i.m.leaveOut(100+uint64(insideSlack/tick)+7, tick)
	i.m.leaveOut(100+uint64(insideSlack/tick)+7, tick)
	if late := i.Status().Late; late != 7 {
		t.Errorf("%d steps left out, want 7", late)
	}
}

// A disk that was used keeps what it has, as that of any VM that is started again.
func TestInsideFindsItsLedgerAgain(t *testing.T) {
	i, spec, path := insideGuest(t, Idle)
	w, err := i.m.app.ledger.add(9, 1)
	if err != nil {
		t.Fatal(err)
	}
	<-w.Done()
	if err := i.m.disk.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := NewInside(spec, path)
	if err != nil {
		t.Fatal(err)
	}
	if its, _ := again.m.app.ledger.count(9); its != 1 {
		t.Errorf("the ledger holds %d increments of the client, want 1", its)
	}
}

func TestInsideServesUntilItIsTold(t *testing.T) {
	spec := Spec{Name: "shop", Work: 4 << 20, Workload: Idle, Seed: 2, Port: freePort(t)}
	i, err := NewInside(spec, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- i.Run(ctx, func() { close(ready) }) }()
	<-ready
	c, err := Dial(t.Context(), fmt.Sprintf("127.0.0.1:%d", spec.Port), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, k := range []Kind{Browse, Buy, Increment, Ping} {
		if _, err := c.Do(t.Context(), k); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
	if s := i.Status(); s.Acked != 2 || s.Clients != 1 {
		t.Errorf("%+v", s)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
