package hypervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// wild is a VM that writes its memory and tells nobody where.
type wild struct {
	*guest.Snapshot
	ram  []byte
	mu   sync.Mutex // held while it writes, and while it stands
	stop chan struct{}
	done sync.WaitGroup
}

func newWild(t *testing.T, pages int) *wild {
	w := &wild{ram: make([]byte, pages*guest.PageSize), stop: make(chan struct{})}
	r := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(w.ram)/2; i += 64 {
		binary.LittleEndian.PutUint64(w.ram[i:], r.Uint64()>>uint(r.IntN(60)))
	}
	var err error
	if w.Snapshot, err = guest.NewSnapshot(w.ram); err != nil {
		t.Fatal(err)
	}
	w.done.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
			w.mu.Lock()
			for range 20 {
				page := r.IntN(pages / 16)
				if r.IntN(8) == 0 {
					page = r.IntN(pages)
				}
				binary.LittleEndian.PutUint64(w.ram[page*guest.PageSize+8*r.IntN(512):], r.Uint64())
				w.ram[(pages-1-r.IntN(64))*guest.PageSize] ^= 1 // and soon back
			}
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		close(w.stop)
		w.mu.Unlock() // it stands
		w.done.Wait()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *wild) Memory() []byte { return w.Bytes() }
func (w *wild) Stayed() []byte { return w.ram }
func (w *wild) Pause(context.Context) (event.Mono, []byte, error) {
	w.mu.Lock()
	return event.Now(), []byte("state"), nil
}

func (w *wild) Resume(context.Context) error { w.mu.Unlock(); return nil }

// home is where it comes to.
type home struct {
	memory []byte
	came   []byte // a copy of it when the VM started
}

func (h *home) Memory() []byte { return h.memory }
func (h *home) Start(context.Context, []byte) (event.Mono, error) {
	h.came = bytes.Clone(h.memory)
	for i := 0; i < len(h.memory); i += 3 * guest.PageSize { // it runs
		h.memory[i]++
	}
	return event.Now(), nil
}

func (h *home) StartMissing(context.Context, []byte, []uint64) (migrate.Faults, event.Mono, error) {
	panic("not asked for")
}
func (h *home) Written(into []uint64) int { return all(into, len(h.memory)/guest.PageSize) }

// oneWay lets everybody do what is asked.
type oneWay struct{}

func (oneWay) Paused(context.Context, event.Mono) {}
func (oneWay) Commit(context.Context) error       { return nil }
func (oneWay) Abort(ctx context.Context) error    { return nil }

// A VM whose guest marks no page is moved exactly, and all of it is proven, by
// every algorithm that hands over a whole memory.
func TestAVMThatMarksNoPageMovesExactly(t *testing.T) {
	const pages = 2048 + 5
	for _, algorithm := range migrate.Algorithms {
		if CanMove(guest.KindQEMU, algorithm) != nil {
			continue
		}
		t.Run(algorithm, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			source, target := link(t, ctx)
			vm, there := newWild(t, pages), &home{memory: make([]byte, pages*guest.PageSize)}
			opt := migrate.Options{Algorithm: algorithm}
			received := make(chan error, 1)
			go func() {
				_, err := migrate.Receive(ctx, target, there, oneWay{}, opt)
				received <- err
			}()
			rep, err := migrate.Send(ctx, source, vm, oneWay{}, opt)
			if other := <-received; err != nil || other != nil {
				t.Fatalf("source: %v; target: %v", err, other)
			}
			if !bytes.Equal(vm.ram, there.came) {
				t.Error("what came is not what the VM's memory held when it stood")
			}
			if want := migrate.HashMemory(vm.ram); rep.Hash != want {
				t.Errorf("proven is %s: want %s", rep.Hash, want)
			}
			if v := rep.Verify; v.Pages != pages || v.AtPlacing != pages || v.Unproven != 0 {
				t.Errorf("proof %+v: want %d pages, all hashed when they were placed", v, pages)
			}
			sent := 0
			for _, r := range rep.Rounds {
				sent += r.Sent
			}
			t.Logf("%d rounds, %d pages sent, paused %v, proof took %v at the target", len(rep.Rounds), sent, rep.Pause(), rep.Verify.Took)
		})
	}
}

// link is a connection between two hosts.
func link(t *testing.T, ctx context.Context) (source, target migrate.Link) {
	t.Helper()
	l, err := wire.ListenTCP(ctx, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := wire.Config{ID: [16]byte{1}}
	listener := wire.Listen(l, cfg)
	t.Cleanup(func() { _ = listener.Close() })
	cfg.Dial = wire.DialTCP(netip.MustParseAddrPort(l.Addr().String()))
	opened := make(chan error, 1)
	go func() {
		var err error
		source.Bulk, err = wire.Open(ctx, cfg)
		opened <- err
	}()
	target.Bulk, err = listener.Accept(ctx, 0)
	if err := errors.Join(err, <-opened); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeLink(source); closeLink(target) })
	return source, target
}

func TestWhatCannotMoveSaysWhatCan(t *testing.T) {
	for _, c := range []struct{ kind, algorithm, want string }{
		{guest.KindQEMU, migrate.PostCopy, "take qemu-post-copy or qemu-post-copy-preempt"},
		{guest.KindQEMU, migrate.Hybrid, "take qemu-post-copy or qemu-post-copy-preempt"},
		{guest.KindQEMU, migrate.CloudNet, ""},
		{guest.KindProcess, migrate.PostCopy, ""},
		{"", migrate.Hybrid, ""},
		{"", "qemu-multifd", "write `guest: qemu`"},
	} {
		err := CanMove(c.kind, c.algorithm)
		if (err == nil) != (c.want == "") || err != nil && !bytes.Contains([]byte(err.Error()), []byte(c.want)) {
			t.Errorf("%q by %s: %v: want %q", c.kind, c.algorithm, err, c.want)
		}
	}
}
