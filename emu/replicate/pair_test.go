package replicate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/vpclab/vpclab/emu/event"
)

// pair is both ends with all that they need.
type pair struct {
	t    testing.TB
	opt  Options
	vm   *vm
	gate *gate
	wan  *wan
	at   *place
	id   [16]byte

	primary *PrimaryEnd
	standby *StandbyEnd
	synced  chan uint64 // at the primary
	lost    func(context.Context, error) error
	forgets func()
	whole   atomic.Int64 // copies, by the standby's word
	silent  chan struct{}

	cancel     context.CancelCauseFunc // of the primary's Run
	stop       context.CancelCauseFunc // of the standby's
	unlisten   func()
	pErr, sErr chan error
	pStep      func(string) error
	sStep      func(string) error
}

const (
	testPages  = 300
	testBlocks = 200
)

func newPair(t testing.TB, opt Options, rate float64, delay time.Duration) *pair {
	return newPairOf(t, opt, rate, delay, testPages, testBlocks, 1)
}

func newPairOf(t testing.TB, opt Options, rate float64, delay time.Duration, pages, blocks int, seed uint64) *pair {
	t.Helper()
	p := &pair{
		t: t, opt: opt, vm: newVM(t, pages, blocks, seed), gate: newGate(), wan: newWAN(t, rate, delay),
		at: &place{memory: mapMemory(t, pages), disk: &image{b: make([]byte, blocks*pageSize)}, folder: t.TempDir()},
		id: [16]byte{1, 2, 3}, synced: make(chan uint64, 8), silent: make(chan struct{}, 8),
	}
	p.vm.gate = p.gate
	t.Cleanup(func() {
		p.endPrimary()
		p.endStandby()
		p.vm.end()
		p.wan.close()
	})
	return p
}

var errEnough = errors.New("the test has seen enough")

func (p *pair) startStandby() {
	p.t.Helper()
	opt := p.opt
	opt.Step = p.sStep
	s, err := NewStandby(p.at, opt, Tell{Forgets: p.forgets, Synced: func(uint64) { p.whole.Add(1) }, Silent: func(event.Mono) {
		select {
		case p.silent <- struct{}{}:
		default:
		}
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	connect, unlisten := p.wan.listen(p.t, p.id)
	ctx, cancel := context.WithCancelCause(context.Background())
	p.standby, p.stop, p.sErr, p.unlisten = s, cancel, make(chan error, 1), unlisten
	go func(done chan error) { done <- s.Run(ctx, connect) }(p.sErr)
}

func (p *pair) startPrimary() {
	p.t.Helper()
	opt := p.opt
	opt.Step = p.pStep
	if p.primary != nil {
		p.primary.Close()
	}
	e, err := NewPrimary(p.vm, p.gate, opt, Tell{
		Synced: func(e uint64) { p.synced <- e },
		Lost: func(ctx context.Context, cause error) error {
			if p.lost == nil {
				return nil
			}
			return p.lost(ctx, cause)
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	p.primary, p.cancel, p.pErr = e, cancel, make(chan error, 1)
	go func(done chan error) { done <- e.Run(ctx, p.wan.dial(p.id)) }(p.pErr)
}

// await waits for something that must come.
func await[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited 20 s for %s", what)
		panic("unreachable")
	}
}

// until waits for something to be so.
func until(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s for %s", what)
		}
		time.Sleep(time.Millisecond) // a look at what others do
	}
}

func (p *pair) endPrimary() error {
	if p.cancel == nil {
		return nil
	}
	p.cancel(errEnough)
	p.cancel = nil
	err := await(p.t, "the primary's end", p.pErr)
	return err
}

func (p *pair) endStandby() error {
	if p.stop == nil {
		return nil
	}
	p.stop(errEnough)
	p.stop = nil
	err := await(p.t, "the standby's end", p.sErr)
	p.unlisten()
	if err := p.standby.Close(); err != nil {
		p.t.Error(err)
	}
	return err
}

// die is what becomes of the primary's host.
func (p *pair) die() {
	p.vm.kill()
	p.endPrimary()
}

// takeOver activates the standby and holds it against what was promised.
func (p *pair) takeOver() Held {
	p.t.Helper()
	held, err := p.standby.Activate(context.Background())
	if err != nil {
		p.t.Fatalf("take over: %v", err)
	}
	p.check(held)
	return held
}

// check: nobody has heard of anything that is not here, and what is here is all of
// one moment.
func (p *pair) check(held Held) {
	p.t.Helper()
	v := p.vm
	v.mu.Lock()
	defer v.mu.Unlock()
	heard, _ := p.gate.loudest()
	if p.opt.Mode == Async || p.opt.Mode == Checkpoint {
		n := binary.LittleEndian.Uint64(held.State)
		if p.opt.Mode == Checkpoint && heard > n {
			p.t.Errorf("clients have heard %d, and the standby goes on after %d", heard, n)
		}
		sums, ok := v.sums[n]
		if !ok {
			p.t.Fatalf("the VM never stood at %d", n)
		}
		if got := [2]uint64{xxh3.Hash(p.at.memory), xxh3.Hash(p.at.disk.b)}; got != sums {
			p.t.Errorf("memory and disk of the standby are not those of %d: %x, %x", n, got, sums)
		}
		return
	}
	// The disk is what some first writes made of it.
	n := uint64(0)
	half := len(v.disk.b) / 2
	for i := 0; i < half; i += 512 {
		if r := binary.LittleEndian.Uint64(p.at.disk.b[i:]); r > n && r <= v.n {
			n = r
		}
	}
	want := bytes.Clone(v.before)
	writes := 0
	for ; writes < int(2*n)-1; writes++ {
		w := v.log[writes]
		copy(want[w.off:], w.data)
	}
	if writes < len(v.log) && !bytes.Equal(want, p.at.disk.b) { // maybe the second of n came, too
		w := v.log[writes]
		copy(want[w.off:], w.data)
		writes++
	}
	if !bytes.Equal(want, p.at.disk.b) {
		p.t.Errorf("the standby's disk is not what the first %d writes of %d make", writes, len(v.log))
	}
	if uint64(writes/2) < heard {
		p.t.Errorf("clients have heard %d, and the standby's disk has %d writes of %d", heard, writes, 2*heard)
	}
}

var modes = []string{Async, Checkpoint, Pipelined, Sync}

func testOptions(mode string) Options {
	o := Options{Mode: mode, Epoch: 5 * time.Millisecond, Silence: 400 * time.Millisecond, Verify: 1}
	if mode == Pipelined || mode == Sync {
		o.Epoch = 2 * time.Millisecond
	}
	return o
}

// TestPrimaryDies is what all this is for.
func TestPrimaryDies(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, testOptions(mode), 0, 2*time.Millisecond)
			p.vm.run(1, time.Millisecond)
			p.startStandby()
			p.startPrimary()
			await(t, "the standby to be in sync", p.synced)
			_, before := p.gate.loudest()
			until(t, "clients to hear something", func() bool { _, n := p.gate.loudest(); return n > before+50 })
			p.die()
			await(t, "the standby to miss the primary", p.silent)
			held := p.takeOver()
			rep := p.primary.Report()
			t.Logf("epoch %d; %d epochs, %d pages (%d staged before), %d blocks, %d bytes; pauses %v", held.Epoch, rep.Epochs,
				rep.Pages, rep.Staged, rep.Blocks, rep.Bytes, rep.Stood)
		})
	}
}
