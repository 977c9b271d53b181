package migrate

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// This file is a test harness: a VM that is a goroutine writing to real memory,
// an arbiter that watches that nobody cheats, and a WAN of TCP over loopback
// with a rate and a delay of its own. Sessions, encoders and engine are the
// real ones.

// room is memory at one host, outside Go's heap as a guest's is.
type place struct {
	memory []byte
	dirty  []atomic.Uint64
}

func newPlace(t testing.TB, pages int) *place {
	t.Helper()
	m, err := unix.Mmap(-1, 0, pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatalf("map %d pages: %v", pages, err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return &place{memory: m, dirty: make([]atomic.Uint64, (pages+63)/64)}
}

// note sets a page's bit; it is called after the page was changed.
func (p *place) note(page int) { p.dirty[page>>6].Or(1 << (page & 63)) }

func (p *place) take(into []uint64) (n int) {
	before := bitmap(into).count()
	for i := range p.dirty {
		into[i] |= p.dirty[i].Swap(0)
	}
	return bitmap(into).count() - before
}

// guest is a VM that can be at either of two places.
type guest struct {
	t       testing.TB
	arb     *judge
	from    *place
	to      *place
	step    func(r *rand.Rand, write func(page, at int, b []byte))
	mu      sync.Mutex            // a step of the VM, or what is done to the VM
	at      atomic.Pointer[place] // where it runs; nil: it stands
	lacking *lacking              // post-copy: pages that are not there
	frozen  []byte                // copy of memory at the pause
	stop    chan struct{}
	done    sync.WaitGroup
	steps   atomic.Int64
	info    sync.Mutex // of the rest, which is asked for while a step waits for a page
	wrong   []string
	kept    []byte
	keptMap []uint64
	version []uint64 // what the VM wrote to each page last
}

func (g *guest) run(seed uint64, every time.Duration) {
	g.stop = make(chan struct{})
	g.done.Add(1)
	go func() {
		defer g.done.Done()
		r := rand.New(rand.NewPCG(seed, 1))
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-g.stop:
				return
			case <-tick.C:
			}
			g.mu.Lock()
			if at := g.at.Load(); at != nil {
				g.steps.Add(1)
				g.step(r, func(page, off int, b []byte) { g.write(at, page, off, b) })
			}
			g.mu.Unlock()
		}
	}()
}

// write changes a page, whose first bytes are the number of the change: one
// that did not come along is noticed by the next.
func (g *guest) write(at *place, page, off int, b []byte) {
	if at == g.to && g.lacking != nil && !g.lacking.need(page) {
		return
	}
	head := at.memory[page*PageSize:]
	if v := binary.LittleEndian.Uint64(head); g.version[page] != 0 && v != g.version[page] {
		g.fault("page %d holds change %d; the VM made %d", page, v, g.version[page])
	}
	at.note(page) // for Written
	g.version[page] = uint64(g.steps.Load())
	binary.LittleEndian.PutUint64(head, g.version[page])
	copy(head[8+off:PageSize], b)
	at.note(page) // for Collect
}

func (g *guest) end() {
	close(g.stop)
	if l := g.lacking; l != nil {
		l.shut()
	}
	g.done.Wait()
}

func (g *guest) fault(format string, args ...any) {
	g.info.Lock()
	defer g.info.Unlock()
	g.wrong = append(g.wrong, fmt.Sprintf(format, args...))
}

// sourceSide and targetSide are what the engine sees of a guest.
type sourceSide struct{ *guest }
type targetSide struct{ *guest }

func (s sourceSide) Memory() []byte            { return s.from.memory }
func (s sourceSide) Collect(into []uint64) int { return s.from.take(into) }
func (s sourceSide) Dirty(page int) bool {
	return s.from.dirty[page>>6].Load()&(1<<(page&63)) != 0
}

func (s sourceSide) Pause(context.Context) (event.Mono, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.at.Load(); at != nil && at != s.from {
		s.fault("pause at the source of a VM that runs at the target")
		return 0, nil, errors.New("not here")
	}
	s.at.Store(nil)
	s.frozen = append(s.frozen[:0], s.from.memory...)
	return event.Now(), []byte(fmt.Sprintf("state after %d", s.steps.Load())), nil
}

func (s sourceSide) Resume(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who := s.arb.owner(); who != "source" {
		s.fault("resume at the source of a VM whose owner is %q", who)
	}
	if s.at.Load() == s.to {
		s.fault("resume at the source of a VM that runs at the target")
	}
	s.at.Store(s.from)
	return nil
}

func (s targetSide) Memory() []byte { return s.to.memory }

func (s targetSide) Keep(_ context.Context, state []byte, missing []uint64) error {
	s.info.Lock()
	defer s.info.Unlock()
	s.kept = append([]byte{}, state...)
	s.keptMap = append([]uint64(nil), missing...)
	return nil
}

func (s targetSide) Start(_ context.Context, state []byte) (event.Mono, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who := s.arb.owner(); who != "target" {
		s.fault("start at the target of a VM whose owner is %q", who)
	}
	if s.at.Load() == s.from {
		s.fault("start at the target of a VM that runs at the source")
	}
	if want := fmt.Sprintf("state after %d", s.steps.Load()); s.at.Load() == nil && string(state) != want {
		s.fault("started with %q in place of %q", state, want)
	}
	s.at.Store(s.to)
	return event.Now(), nil
}

func (s targetSide) StartMissing(ctx context.Context, state []byte, missing []uint64) (Faults, event.Mono, error) {
	s.mu.Lock()
	if s.lacking == nil {
		s.lacking = newLacking(s.to, missing)
	}
	l := s.lacking
	s.mu.Unlock()
	at, err := s.Start(ctx, state)
	return l, at, err
}

func (s targetSide) Written(into []uint64) int {
	for i := range s.to.dirty {
		into[i] |= s.to.dirty[i].Load()
	}
	return bitmap(into).count()
}

// lacking is a memory with holes: a VM that needs a page of them waits.
type lacking struct {
	at     *place
	mu     sync.Mutex
	lacks  bitmap
	placed *sync.Cond
	asked  chan int
	over   bool
}

func newLacking(at *place, missing []uint64) *lacking {
	l := &lacking{at: at, lacks: append(bitmap(nil), missing...), asked: make(chan int, 1024)}
	l.placed = sync.NewCond(&l.mu)
	for p := l.lacks.next(0); p >= 0; p = l.lacks.next(p + 1) {
		clear(at.memory[p*PageSize : (p+1)*PageSize]) // a hole has no bytes
	}
	return l
}

// need waits until a page is there; false: the test has ended.
func (l *lacking) need(page int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lacks.has(page) && !l.over {
		select {
		case l.asked <- page:
		default: // it comes with the others
		}
	}
	for l.lacks.has(page) && !l.over {
		l.placed.Wait()
	}
	return !l.lacks.has(page)
}

func (l *lacking) Next(ctx context.Context) (int, error) {
	select {
	case p := <-l.asked:
		return p, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (l *lacking) Place(page int, data []byte) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.lacks.has(page) {
		return false, nil
	}
	copy(l.at.memory[page*PageSize:(page+1)*PageSize], data)
	l.lacks.unset(page)
	l.placed.Broadcast()
	return true, nil
}

func (l *lacking) Close() error { return nil }

func (l *lacking) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.placed.Broadcast()
}

// judge is an Arbiter.
type judge struct {
	mu      sync.Mutex
	verdict string
	paused  int
}

func (j *judge) Paused(context.Context, event.Mono) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.paused++
}

func (j *judge) Commit(context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.verdict == "source" {
		return fmt.Errorf("commit: %w", ErrAborted)
	}
	j.verdict = "target"
	return nil
}

func (j *judge) Abort(context.Context) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.verdict == "target" {
		return fmt.Errorf("abort: %w", ErrCommitted)
	}
	j.verdict = "source"
	return nil
}

// owner is who owns the VM now; before a verdict it is the source's.
func (j *judge) owner() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.verdict == "" {
		return "source"
	}
	return j.verdict
}

// wan is loopback TCP at a rate and with a delay, each way. It can be cut.
type wan struct {
	rate  float64 // bytes a second; 0: as fast as it goes
	delay time.Duration
	mu    sync.Mutex
	conns []net.Conn
	down  bool
	busy  [2]time.Time // until when the line is taken
}

// cut breaks all connections; new ones succeed.
func (w *wan) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// sever cuts, and for good.
func (w *wan) sever() {
	w.mu.Lock()
	w.down = true
	w.mu.Unlock()
	w.cut()
}

func (w *wan) mend() {
	w.mu.Lock()
	w.down = false
	w.mu.Unlock()
}

func (w *wan) dial(to netip.AddrPort) func(context.Context) (net.Conn, error) {
	dial := wire.DialTCP(to)
	return func(ctx context.Context) (net.Conn, error) {
		w.mu.Lock()
		down := w.down
		w.mu.Unlock()
		if down {
			return nil, errors.New("the WAN is down")
		}
		c, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.conns = append(w.conns, c)
		w.mu.Unlock()
		if w.rate == 0 && w.delay == 0 {
			return c, nil
		}
		return newSlowConn(c, w), nil
	}
}

// slowConn delays and paces what is written and read at the dialling end.
type slowConn struct {
	net.Conn
	w   *wan
	in  chan parcel
	out chan parcel
	now []byte
	end chan struct{}
	one sync.Once
}

type parcel struct {
	b   []byte
	due time.Time
}

func newSlowConn(c net.Conn, w *wan) *slowConn {
	s := &slowConn{Conn: c, w: w, in: make(chan parcel, 4096), out: make(chan parcel, 4096), end: make(chan struct{})}
	go func() { // to the far end
		for {
			select {
			case p := <-s.out:
				time.Sleep(time.Until(p.due))
				if _, err := c.Write(p.b); err != nil {
					return
				}
			case <-s.end:
				return
			}
		}
	}()
	go func() { // from it
		defer close(s.in)
		for {
			b := make([]byte, 32<<10)
			n, err := c.Read(b)
			if err != nil {
				return
			}
			select {
			case s.in <- parcel{b[:n], w.due(1, n)}:
			case <-s.end:
				return
			}
		}
	}()
	return s
}

// due is when bytes that are written now arrive.
func (w *wan) due(way, n int) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.busy[way].Before(now) {
		w.busy[way] = now
	}
	if w.rate > 0 {
		w.busy[way] = w.busy[way].Add(time.Duration(float64(n) / w.rate * float64(time.Second)))
	}
	return w.busy[way].Add(w.delay)
}

func (s *slowConn) Write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		n := min(len(b), 16<<10)
		due := s.w.due(0, n)
		// The writer waits for the line, as with a full socket buffer of 128 KiB.
		if s.w.rate > 0 {
			full := time.Duration(float64(128<<10) / s.w.rate * float64(time.Second))
			time.Sleep(time.Until(due) - s.w.delay - full)
		}
		select {
		case s.out <- parcel{append([]byte{}, b[:n]...), due}:
		case <-s.end:
			return total, net.ErrClosed
		}
		b, total = b[n:], total+n
	}
	return total, nil
}

func (s *slowConn) Read(b []byte) (int, error) {
	if len(s.now) == 0 {
		p, ok := <-s.in
		if !ok {
			return 0, net.ErrClosed
		}
		time.Sleep(time.Until(p.due))
		s.now = p.b
	}
	n := copy(b, s.now)
	s.now = s.now[n:]
	return n, nil
}

func (s *slowConn) Close() error {
	s.one.Do(func() { close(s.end) })
	return s.Conn.Close()
}

// trip is two ends joined by a WAN.
type trip struct {
	wan      *wan
	listener *wire.Listener
	cfg      wire.Config
	source   Link
	target   Link
}

var migrations atomic.Uint64

// join opens a link between two ends. A machine that stalls for longer than
// their patience is no reason to fail.
func (w *wan) join(t testing.TB, urgent bool, patience time.Duration) *trip {
	t.Helper()
	for tries := 1; ; tries++ {
		tr, err := w.tryJoin(urgent, patience)
		if err == nil {
			t.Cleanup(tr.close)
			return tr
		}
		if tries == 5 {
			t.Fatal(err)
		}
	}
}

func (w *wan) tryJoin(urgent bool, patience time.Duration) (*trip, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	l, err := wire.ListenTCP(ctx, netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		return nil, err
	}
	// A port is soon another test's, and a session may still look for its end there.
	tr := &trip{wan: w, cfg: wire.Config{Patience: patience}}
	binary.BigEndian.PutUint64(tr.cfg.ID[:], migrations.Add(1))
	tr.listener = wire.Listen(l, tr.cfg)
	tr.cfg.Dial = w.dial(netip.MustParseAddrPort(l.Addr().String()))
	if err := tr.open(ctx, urgent); err != nil {
		tr.close()
		return nil, err
	}
	return tr, nil
}

func (tr *trip) open(ctx context.Context, urgent bool) error {
	channels := []struct{ source, target *wire.Session }{{&tr.source.Bulk, &tr.target.Bulk}, {&tr.source.Urgent, &tr.target.Urgent}}
	if !urgent {
		channels = channels[:1]
	}
	for i, ch := range channels {
		cfg := tr.cfg
		cfg.Channel = uint8(i)
		failed := make(chan error, 1)
		either, cancel := context.WithCancel(ctx)
		go func() {
			s, err := wire.Open(either, cfg)
			if err != nil {
				cancel()
			} else {
				*ch.source = s
			}
			failed <- err
		}()
		s, err := tr.listener.Accept(either, cfg.Channel)
		if err == nil {
			*ch.target = s
		}
		err = errors.Join(<-failed, err)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// again gives both links the means to open new sessions.
func (tr *trip) again() {
	retry := func(ctx context.Context, try func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		for {
			err := try(ctx)
			if err == nil || ctx.Err() != nil {
				return err
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	each := func(l *Link, open func(ctx context.Context, channel uint8) (wire.Session, error)) func(context.Context) (Link, error) {
		urgent := l.Urgent != nil
		return func(ctx context.Context) (link Link, err error) {
			return link, retry(ctx, func(ctx context.Context) error {
				link.shut()
				if link.Bulk, err = open(ctx, 0); err != nil {
					link.Bulk = nil
					return err
				}
				if urgent {
					if link.Urgent, err = open(ctx, 1); err != nil {
						link.Urgent = nil
						return err
					}
				}
				return nil
			})
		}
	}
	tr.source.Again = each(&tr.source, func(ctx context.Context, channel uint8) (wire.Session, error) {
		cfg := tr.cfg
		cfg.Channel = channel
		return wire.Open(ctx, cfg)
	})
	tr.target.Again = each(&tr.target, func(ctx context.Context, channel uint8) (wire.Session, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return tr.listener.Accept(ctx, channel)
	})
}

func (tr *trip) close() {
	tr.source.shut()
	tr.target.shut()
	_ = tr.listener.Close()
	tr.wan.cut()
}

// TestMain lets tests that wait for time-outs wait side by side.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "10"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
