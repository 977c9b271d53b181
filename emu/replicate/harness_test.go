package replicate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// This file is a test harness: a VM that is a goroutine with real memory and a disk,
// a gate that keeps account of what was let go, a witness, places with folders, and
// a WAN of TCP over loopback with a rate, a delay and a knife. Sessions, encoders,
// logs and both ends are the real ones.

func mapMemory(t testing.TB, pages int) []byte {
	t.Helper()
	m, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatalf("map %d pages: %v", pages, err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return m
}

// image is a disk in memory.
type image struct {
	mu sync.Mutex
	b  []byte
}

func (d *image) Size() int64 { return int64(len(d.b)) }

func (d *image) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(b, d.b[off:]), nil
}

func (d *image) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.b[off:], b), nil
}

// place is a standby's.
type place struct {
	memory []byte
	disk   *image
	folder string
}

func (p *place) Memory() []byte { return p.memory }
func (p *place) Disk() Image    { return p.disk }
func (p *place) Folder() string { return p.folder }

// write is one that the VM made to its disk.
type write struct {
	off  int64
	data []byte
}

// vm is a VM at the primary. What it says is a number that counts up: whoever
// heard number n must find, at whoever takes over, all that was done up to n.
type vm struct {
	t      testing.TB
	gate   *gate // nil: what it says is heard at once
	memory []byte
	disk   *image

	mu      sync.Mutex // a step of the VM, or what is done to the VM
	dirty   []atomic.Uint64
	written []atomic.Uint64 // blocks
	n       uint64
	stands  bool
	sums    map[uint64][2]uint64 // of memory and disk, when it stood at n
	log     []write              // all, in order
	before  []byte               // the disk before them
	report  func(off int64, data []byte, acked func())
	dead    atomic.Bool
	waits   sync.WaitGroup
	stop    chan struct{}
	ended   sync.WaitGroup
	pauses  int
	// afterRead is called when a part of its disk was read for the standby.
	afterRead func()
	// serial, where it is not 0, is how many writes a program makes one after the
	// other before it answers, as a database does.
	serial int
	// stall has the next checkpoint wait for the end of its session, and fail.
	stall atomic.Pointer[chan struct{}]
}

func newVM(t testing.TB, pages, blocks int, seed uint64) *vm {
	v := &vm{
		t: t, memory: mapMemory(t, pages), disk: &image{b: make([]byte, blocks*pageSize)},
		dirty: make([]atomic.Uint64, (pages+63)/64), written: make([]atomic.Uint64, (blocks+63)/64),
		sums: map[uint64][2]uint64{}, stop: make(chan struct{}),
	}
	r := rand.New(rand.NewPCG(seed, 9))
	for i := 0; i < len(v.memory); i += pageSize {
		if r.IntN(4) > 0 { // a quarter are zeros
			fillText(r, v.memory[i:i+pageSize])
		}
	}
	for i := 0; i < len(v.disk.b); i += pageSize {
		if r.IntN(2) > 0 {
			fillText(r, v.disk.b[i:i+pageSize])
		}
	}
	v.before = bytes.Clone(v.disk.b)
	return v
}

// fillText writes what can be compressed, somewhat.
func fillText(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = 'a' + byte(r.IntN(9))
	}
}

// run has the VM work until end.
func (v *vm) run(seed uint64, every time.Duration) {
	v.ended.Go(func() {
		r := rand.New(rand.NewPCG(seed, 2))
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-v.stop:
				return
			case <-tick.C:
				v.step(r)
			}
		}
	})
}

func (v *vm) end() {
	close(v.stop)
	v.ended.Wait()
}

// kill has it do and say nothing any more: its host has died.
func (v *vm) kill() {
	v.dead.Store(true)
	v.mu.Lock() // the step that it was in has ended
	defer v.mu.Unlock()
	if v.gate != nil {
		v.gate.die()
	}
}

// step changes some pages and a block, and says so.
func (v *vm) step(r *rand.Rand) {
	v.mu.Lock()
	if v.stands || v.dead.Load() {
		v.mu.Unlock()
		return
	}
	v.n++
	n := v.n
	v.gate.begins(n)
	for range 1 + r.IntN(8) {
		page := r.IntN(len(v.memory) / pageSize / 3)
		at := page*pageSize + r.IntN(pageSize-16)&^7
		binary.LittleEndian.PutUint64(v.memory[at:], n)
		fillText(r, v.memory[at+8:at+16])
		v.dirty[page>>6].Or(1 << (page & 63))
	}
	// A record in the disk's first half, in turns; and something anywhere in the other.
	half := len(v.disk.b) / 2
	record := make([]byte, 512)
	binary.LittleEndian.PutUint64(record, n)
	fillText(r, record[8:])
	some := make([]byte, 1+r.IntN(6000))
	fillText(r, some)
	writes := []write{{int64(int(n) * 512 % half), record}, {int64(half + r.IntN(half-len(some))), some}}
	if v.serial > 0 {
		v.mu.Unlock()
		v.waits.Go(func() {
			for range v.serial {
				var acked sync.WaitGroup
				v.mu.Lock()
				v.write(writes[0], &acked)
				v.mu.Unlock()
				acked.Wait()
			}
			v.say(n)
		})
		return
	}
	var acked sync.WaitGroup
	for _, w := range writes {
		v.write(w, &acked)
	}
	v.mu.Unlock()
	v.waits.Go(func() { // the program waits; others do their work meanwhile
		acked.Wait()
		v.say(n)
	})
}

// write writes to the image and reports it.
func (v *vm) write(w write, acked *sync.WaitGroup) {
	_, _ = v.disk.WriteAt(w.data, w.off)
	for b := w.off / pageSize; b*pageSize < w.off+int64(len(w.data)); b++ {
		v.written[b>>6].Or(1 << (b & 63))
	}
	v.log = append(v.log, w)
	if v.report != nil {
		acked.Add(1)
		v.report(w.off, bytes.Clone(w.data), acked.Done)
	}
}

// say is what the clients hear once the gate lets it.
func (v *vm) say(n uint64) {
	if v.dead.Load() {
		return
	}
	v.gate.send(n)
}

func (v *vm) Memory() []byte { return v.memory }

func takeBits(from []atomic.Uint64, into []uint64) (n int) {
	for i := range from {
		into[i] = from[i].Swap(0)
	}
	return bitmap(into).count()
}

func (v *vm) Collect(into []uint64) int { return takeBits(v.dirty, into) }
func (v *vm) Dirty(page int) bool       { return v.dirty[page>>6].Load()&(1<<(page&63)) != 0 }
func (v *vm) Disk() Disk                { return (*vmDisk)(v) }

func (v *vm) sum() [2]uint64 { return [2]uint64{xxh3.Hash(v.memory), xxh3.Hash(v.disk.b)} }

func (v *vm) Checkpoint(ctx context.Context, _ bool) (event.Mono, []byte, error) {
	if stall := v.stall.Swap(nil); stall != nil {
		close(*stall)
		<-ctx.Done()
		return 0, nil, context.Cause(ctx)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dead.Load() {
		return 0, nil, errors.New("its host has died")
	}
	v.stands = true
	v.pauses++
	v.sums[v.n] = v.sum()
	return event.Now(), binary.LittleEndian.AppendUint64(nil, v.n), nil
}

func (v *vm) Resume(context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stands = false
	return nil
}

// vmDisk is its disk as the engine sees it.
type vmDisk vm

func (d *vmDisk) Size() int64 { return d.disk.Size() }
func (d *vmDisk) ReadAt(b []byte, off int64) (int, error) {
	n, err := d.disk.ReadAt(b, off)
	if d.afterRead != nil {
		d.afterRead()
	}
	return n, err
}
func (d *vmDisk) Collect(into []uint64) int { return takeBits(d.written, into) }

func (d *vmDisk) Mirror(_ context.Context, report func(int64, []byte, func())) (func(), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.report = report
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.report = nil
	}, nil
}

// gate is output commit, with an account of what was let go.
type gate struct {
	mu    sync.Mutex
	open  bool
	shut  bool
	epoch uint64
	held  map[uint64][]uint64
	heard uint64 // the highest number that anybody heard
	count int
	began map[uint64]time.Time // when the VM began with a number; nil: nobody asks
	took  []time.Duration      // until it was heard
}

func newGate() *gate { return &gate{open: true, held: map[uint64][]uint64{}} }

func (g *gate) send(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.shut:
	case g.open:
		g.hear(n)
	default:
		g.held[g.epoch] = append(g.held[g.epoch], n)
	}
}

func (g *gate) begins(n uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.began != nil {
		g.began[n] = time.Now()
	}
}

func (g *gate) hear(n uint64) {
	g.heard = max(g.heard, n)
	g.count++
	if at, ok := g.began[n]; ok {
		g.took = append(g.took, time.Since(at))
		delete(g.began, n)
	}
}

func (g *gate) Mark() (uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.held) >= 16 {
		return 0, errors.New("no more bands")
	}
	g.open = false
	g.epoch++
	g.held[g.epoch] = nil
	return g.epoch, nil
}

func (g *gate) Release(epoch uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if epoch >= g.epoch {
		return fmt.Errorf("release %d while %d is open", epoch, g.epoch)
	}
	if g.shut {
		return nil
	}
	for e, list := range g.held {
		if e <= epoch {
			for _, n := range list {
				g.hear(n)
			}
			delete(g.held, e)
		}
	}
	return nil
}

func (g *gate) Open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return errors.New("it is shut for good")
	}
	for e, list := range g.held {
		for _, n := range list {
			g.hear(n)
		}
		delete(g.held, e)
	}
	g.open = true
	return nil
}

func (g *gate) Shut() error { g.die(); return nil }

func (g *gate) die() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

func (g *gate) loudest() (heard uint64, count int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.heard, g.count
}

// wan is the way between two ends: each connection goes through it.
type wan struct {
	l      net.Listener
	to     atomic.Pointer[netip.AddrPort]
	rate   float64 // bytes a second; 0: any
	delay  time.Duration
	cut    atomic.Bool
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
	done   sync.WaitGroup
}

func newWAN(t testing.TB, rate float64, delay time.Duration) *wan {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wan{l: l, rate: rate, delay: delay, conns: map[net.Conn]bool{}}
	w.done.Go(w.serve)
	t.Cleanup(w.close)
	return w
}

func (w *wan) close() {
	_ = w.l.Close()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.sever()
	w.done.Wait()
}

// sever breaks all connections.
func (w *wan) sever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
	clear(w.conns)
}

func (w *wan) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.cut.Load() {
		_ = c.Close()
		return false
	}
	w.conns[c] = true
	return true
}

func (w *wan) serve() {
	for {
		a, err := w.l.Accept()
		if err != nil {
			return
		}
		to := w.to.Load()
		if to == nil || !w.keep(a) {
			_ = a.Close()
			continue
		}
		b, err := net.Dial("tcp", to.String())
		if err != nil || !w.keep(b) {
			_ = a.Close()
			continue
		}
		w.done.Go(func() { w.carry(a, b) })
		w.done.Go(func() { w.carry(b, a) })
	}
}

// carry moves bytes one way, each piece when the line has had time for it.
func (w *wan) carry(from, to net.Conn) {
	type piece struct {
		b  []byte
		at time.Time
	}
	way := make(chan piece, 1024)
	w.done.Go(func() {
		for p := range way {
			timer := time.NewTimer(time.Until(p.at))
			<-timer.C // it is the way that is slow
			if _, err := to.Write(p.b); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	defer close(way)
	free := time.Now()
	for {
		b := make([]byte, 32<<10)
		n, err := from.Read(b)
		if n > 0 {
			now := time.Now()
			if free.Before(now) {
				free = now
			}
			if w.rate > 0 {
				free = free.Add(time.Duration(float64(n) / w.rate * 1e9))
			}
			way <- piece{b[:n], free.Add(w.delay)}
			if ahead := time.Until(free); ahead > 2*time.Millisecond {
				timer := time.NewTimer(ahead - 2*time.Millisecond)
				<-timer.C
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = to.Close()
			}
			return
		}
	}
}

// dial is the primary's Connect.
func (w *wan) dial(id [16]byte) Connect {
	addr := w.l.Addr().(*net.TCPAddr).AddrPort()
	return func(ctx context.Context) (wire.Session, error) {
		return wire.Open(ctx, wire.Config{ID: id, Dial: wire.DialTCP(addr), Patience: patience})
	}
}

const patience = 2 * time.Second

// listen has the WAN lead to a new listener, and is the standby's Connect.
func (w *wan) listen(t testing.TB, id [16]byte) (Connect, func()) {
	t.Helper()
	l, err := wire.ListenTCP(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	ln := wire.Listen(l, wire.Config{ID: id, Patience: patience})
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	w.to.Store(&addr)
	return func(ctx context.Context) (wire.Session, error) { return ln.Accept(ctx, 0) }, func() { _ = ln.Close() }
}
