package migrate_test

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
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/vpclab/vpclab/emu/migrate"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

const (
	block     = migrate.BlockSize
	diskLimit = 60 * time.Second // of everything that a test of disks waits for
)

// testDisk is a disk image in memory, the VM that writes to it, and its mirror.
// Image, then bitmap, then report, as guest.Disk does it.
type testDisk struct {
	gate   sync.RWMutex // held while a write changes the image
	paused bool         // under the gate

	mu      sync.Mutex
	image   []byte
	dirty   []uint64
	written []uint64 // since the VM runs here
	mirror  *testMirror
	onRead  func(off int64) // called without the lock before a read
}

func newTestDisk(blocks int) *testDisk {
	return &testDisk{image: make([]byte, blocks*block), dirty: make([]uint64, (blocks+63)/64), written: make([]uint64, (blocks+63)/64)}
}

func (d *testDisk) Size() int64 { return int64(len(d.image)) }

func (d *testDisk) ReadAt(p []byte, off int64) (int, error) {
	if d.onRead != nil {
		d.onRead(off)
	}
	// Block by block, so that writes come between.
	n := 0
	for n < len(p) {
		d.mu.Lock()
		c := copy(p[n:min(len(p), n+1024)], d.image[off+int64(n):])
		d.mu.Unlock()
		if n += c; c == 0 {
			return n, io.EOF
		}
	}
	return n, nil
}

func (d *testDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return copy(d.image[off:], p), nil
}

// Extents are where blocks are not zero, as in a sparse file.
func (d *testDisk) Extents() (extents [][2]int64, _ error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	zeros := make([]byte, block)
	for off := 0; off < len(d.image); off += block {
		if !bytes.Equal(d.image[off:off+block], zeros) {
			extents = append(extents, [2]int64{int64(off), block})
		}
	}
	return extents, nil
}

func (d *testDisk) Collect(into []uint64) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(into, d.dirty)
	clear(d.dirty)
	return len(into) // nobody looks
}

func (d *testDisk) Written(into []uint64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, w := range d.written {
		into[i] |= w
	}
	return 0
}

func (d *testDisk) Mirror(context.Context) (migrate.DiskMirror, error) {
	m := &testMirror{news: make(chan struct{}, 1), closed: make(chan struct{})}
	d.mu.Lock()
	d.mirror = m
	d.mu.Unlock()
	return m, nil
}

// write is the VM's: it returns when the write counts. A VM that is paused does
// not write. there says that the mirror has acknowledged it.
func (d *testDisk) write(p []byte, off int64) (written, there bool) {
	done, closed, written := d.begin(p, off)
	if done == nil {
		return written, false
	}
	select {
	case <-done:
		return written, true
	case <-closed: // goes on without it
		return written, false
	}
}

// begin changes the image, the bitmap, and reports.
func (d *testDisk) begin(p []byte, off int64) (done, closed <-chan struct{}, written bool) {
	d.gate.RLock()
	defer d.gate.RUnlock()
	if d.paused {
		return nil, nil, false
	}
	half := len(p) / 2
	d.mu.Lock()
	for b := off / block; b*block < off+int64(len(p)); b++ {
		d.written[b/64] |= 1 << (b % 64)
	}
	copy(d.image[off:], p[:half])
	d.mu.Unlock()
	d.mu.Lock()
	copy(d.image[off+int64(half):], p[half:])
	for b := off / block; b*block < off+int64(len(p)); b++ {
		d.dirty[b/64] |= 1 << (b % 64)
	}
	defer d.mu.Unlock()
	if d.mirror != nil {
		done, closed = d.mirror.report(off, int64(len(p))), d.mirror.closed
	}
	return done, closed, true
}

// late writes to the disk just before writes are reported, so that something is
// left for the step after that. It is for the Step of a move.
func (d *testDisk) late(step string) {
	if step == migrate.StepDiskMirror {
		d.write(fmt.Appendf(nil, "late %p", d), 300*block)
	}
}

// setPaused opens or shuts the gate: no write is under way when it is shut.
func (d *testDisk) setPaused(paused bool) {
	d.gate.Lock()
	d.paused = paused
	d.gate.Unlock()
}

// testMirror is a mirror without a socket.
type testMirror struct {
	mu      sync.Mutex
	extents [][2]int64
	number  uint64
	acked   uint64
	waiting []chan struct{}
	news    chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (m *testMirror) report(off, length int64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	m.extents = append(m.extents, [2]int64{off, length})
	c := make(chan struct{})
	m.waiting = append(m.waiting, c)
	select {
	case m.news <- struct{}{}:
	default:
	}
	return c
}

func (m *testMirror) Next(ctx context.Context) (uint64, [][2]int64, error) {
	for {
		m.mu.Lock()
		number, extents := m.number, m.extents
		m.extents = nil
		m.mu.Unlock()
		if len(extents) > 0 {
			return number, extents, nil
		}
		select {
		case <-m.news:
		case <-m.closed:
			return 0, nil, io.EOF
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		}
	}
}

func (m *testMirror) Ack(number uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.acked < number {
		close(m.waiting[0])
		m.waiting = m.waiting[1:]
		m.acked++
	}
	return nil
}

func (m *testMirror) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// testVM writes to a disk from several goroutines, as fast as it may, and keeps
// what each write was that the mirror acknowledged.
type testVM struct {
	stop chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex
	there map[int64][]byte // by offset: the last write that was acknowledged
	after map[int64][]byte // the one after it, which may be there
	wrote int              // writes that counted
}

// A writer writes cells of its own, one after the other.
const (
	cell    = 512
	writers = 4
)

func startVM(d *testDisk, seed uint64, hot int, pace time.Duration) *testVM {
	v := &testVM{stop: make(chan struct{}), there: map[int64][]byte{}, after: map[int64][]byte{}}
	for w := range writers {
		r := rand.New(rand.NewPCG(seed, uint64(w)))
		v.done.Go(func() {
			tick := time.NewTicker(pace)
			defer tick.Stop()
			for {
				select {
				case <-v.stop:
					return
				case <-tick.C:
				}
				p := make([]byte, cell)
				binary.BigEndian.PutUint64(p, r.Uint64())
				binary.BigEndian.PutUint64(p[cell-8:], r.Uint64())
				v.write(d, p, int64(r.IntN(hot)*block+w*cell))
			}
		})
	}
	return v
}

func (v *testVM) write(d *testDisk, p []byte, off int64) {
	v.mu.Lock()
	v.after[off] = p
	v.mu.Unlock()
	written, there := d.write(p, off)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case there:
		v.there[off] = p
	case written:
		delete(v.there, off) // overwritten by one that is only here
	}
	if written {
		v.wrote++
	}
}

// lost is how many writes that were acknowledged a disk does not have.
func (v *testVM) lost(d *testDisk) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for off, p := range v.there {
		if has := d.image[off : off+cell]; !bytes.Equal(has, p) && !bytes.Equal(has, v.after[off]) {
			n++
		}
	}
	return n
}

func (v *testVM) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.wrote
}

// end stops its goroutines, once no write waits.
func (v *testVM) end() {
	close(v.stop)
	v.done.Wait()
}

// fill puts data on a disk: a third of the blocks, many of them alike.
func fill(d *testDisk, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	for off := 0; off < len(d.image); off += block {
		switch r.IntN(6) {
		case 0:
			for i := off; i < off+block; i += 8 {
				binary.BigEndian.PutUint64(d.image[i:], r.Uint64())
			}
		case 1:
			for i := off; i < off+block; i += 1024 {
				copy(d.image[i:], fmt.Sprintf("alike %d", r.IntN(20)))
			}
		}
	}
}

// road is what two ends are joined by. It can be cut, once or for good.
type road struct {
	mu    sync.Mutex
	conns []net.Conn
	gone  bool
}

// cut breaks the connection in use.
func (r *road) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.conns = nil
}

// kill cuts for good: an end is dead.
func (r *road) kill() {
	r.mu.Lock()
	r.gone = true
	r.mu.Unlock()
	r.cut()
}

func (r *road) use(c net.Conn) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		_ = c.Close()
		return nil, errors.New("the way is gone")
	}
	r.conns = append(r.conns, c)
	return c, nil
}

// disks joins two ends by a session.
func disks(t testing.TB, patience time.Duration) (a, b wire.Session, way *road) {
	ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
	t.Cleanup(cancel)
	l, err := wire.ListenTCP(ctx, netip.MustParseAddrPort("127.0.0.1:0"))
	require.NoError(t, err)
	cfg := wire.Config{Channel: 2, Window: 1 << 20, MaxFrame: 2 << 20, Patience: patience}
	ln := wire.Listen(l, cfg)
	t.Cleanup(func() { _ = ln.Close() })
	dial := wire.DialTCP(ln.Addr().(*net.TCPAddr).AddrPort())
	way = &road{}
	cfg.Dial = func(ctx context.Context) (net.Conn, error) {
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		return way.use(c)
	}
	var g errgroup.Group
	g.Go(func() (err error) { b, err = ln.Accept(ctx, 2); return err })
	a, err = wire.Open(ctx, cfg)
	require.NoError(t, err)
	require.NoError(t, g.Wait())
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return a, b, way
}

// moveDisk moves a disk with a VM that writes all the time. step is given the way.
func moveDisk(t *testing.T, from, to *testDisk, opt migrate.DiskOptions, step func(*road, string) error) (source, target *migrate.DiskReport) {
	a, b, way := disks(t, 15*time.Second)
	opt.Step = func(name string) error {
		from.late(name)
		if step == nil {
			return nil
		}
		return step(way, name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
	defer cancel()
	vm := startVM(from, 1, 200, 300*time.Microsecond)
	r := migrate.ReceiveDisk(ctx, b, to, opt)
	m, err := migrate.SendDisk(ctx, a, from, opt)
	require.NoError(t, err)
	defer m.Close()
	require.Eventually(t, func() bool { return m.Err() != nil || stepped(from) }, diskLimit, time.Millisecond, "the VM stands in the synchronous phase")
	from.setPaused(true)
	require.NoError(t, m.Settle(ctx))
	require.NoError(t, r.AwaitSettled(ctx))
	_ = from.mirror.Close() // as the guest does when it goes on elsewhere
	vm.end()
	require.Zero(t, vm.lost(to))
	require.True(t, bytes.Equal(from.image, to.image))
	to.setPaused(false)
	clear(to.written)
	to.write([]byte("the VM runs here"), 5*block+7)
	source, err = m.Prove(ctx)
	require.NoError(t, err)
	target, err = r.Wait(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, source.Hash)
	require.Equal(t, source.Hash, target.Hash)
	require.NoError(t, m.Err())
	return source, target
}

// stepped tells whether the VM has gone on writing to the mirror.
func stepped(d *testDisk) bool {
	d.mirror.mu.Lock()
	defer d.mirror.mu.Unlock()
	return d.mirror.acked > 200
}

func TestDiskMoves(t *testing.T) {
	from, to := newTestDisk(3001), newTestDisk(3001)
	fill(from, 1)
	rep, _ := moveDisk(t, from, to, migrate.DiskOptions{}, nil)
	t.Logf("%d blocks, %d the same, %d sent, %d synced, %d last, %d rounds; %d writes waited; %d bytes out, %d back; %+v",
		rep.Blocks, rep.Same, rep.Sent, rep.Synced, rep.Last, len(rep.Rounds), rep.Writes, rep.BytesOut, rep.BytesBack, rep.Encoders)
	require.Greater(t, rep.Same, 3001/2)
	require.NotEmpty(t, rep.Waits)
	require.Equal(t, 3001, rep.Verify.Pages)
	require.Less(t, rep.BytesOut, int64(3001*block/3), "redundancy is found")

	// There and back: little has changed, and little is sent.
	back, _ := moveDisk(t, to, from, migrate.DiskOptions{Reuse: true}, nil)
	t.Logf("back: %d bytes out, %d back, %d of them hashes; %d sent", back.BytesOut, back.BytesBack, back.HashBytes, back.Sent)
	require.Positive(t, back.HashBytes)
	require.Greater(t, back.Same, 3001-250)
}

// TestFollowTheSun: a disk goes away and comes back after a day's work, and the
// host that it comes back to still has what it was (CloudNet, section VI-I:
// 51 GB there, 723 MB back). Two thirds hold data; one block of 125 has changed.
func TestFollowTheSun(t *testing.T) {
	const blocks = 16384
	here, there := newTestDisk(blocks), newTestDisk(blocks)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(here.image[:blocks*2/3*block]) // never fails
	day := rand.New(r)
	copyDisk := func(from, to *testDisk, opt migrate.DiskOptions) int64 {
		ctx, cancel := context.WithTimeout(context.Background(), diskLimit)
		defer cancel()
		a, b, _ := disks(t, 15*time.Second)
		target := migrate.ReceiveDisk(ctx, b, to, opt)
		m, err := migrate.SendDisk(ctx, a, from, opt)
		require.NoError(t, err)
		defer m.Close()
		require.NoError(t, m.Settle(ctx))
		require.NoError(t, target.AwaitSettled(ctx))
		rep, err := m.Prove(ctx)
		require.NoError(t, err)
		require.True(t, bytes.Equal(from.image, to.image))
		return rep.BytesOut + rep.BytesBack
	}
	first := copyDisk(here, there, migrate.DiskOptions{})
	for range blocks / 125 {
		_, _ = r.Read(there.image[day.IntN(blocks)*block:][:block]) // never fails
	}
	back := copyDisk(there, here, migrate.DiskOptions{Reuse: true})
	t.Logf("%d bytes there, %d back: %.1f %%", first, back, float64(back)/float64(first)*100)
	require.Less(t, back, first/40)
}
