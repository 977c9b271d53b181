package watch

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/clock"
)

// Watch looks at the kernel from New to Close. Its methods may be called from
// many goroutines.
type Watch struct {
	pulse    *pulse
	counters *counterReader
	done     chan struct{}
	drained  sync.WaitGroup

	mu    sync.Mutex
	taken uint64 // of the pulse's notes
	spans map[*Span]struct{}
}

// Span is one stretch of time that is looked at.
type Span struct {
	watch  *Watch
	begin  int64
	offset time.Duration // of CLOCK_REALTIME to CLOCK_MONOTONIC
	before counters
	beats  []beat
	lost   int
	only   []window // what matters of it; nil: all
}

// Seen is what was seen in a span.
type Seen struct {
	Lasted   time.Duration
	Measured time.Duration // the part of it in which lateness mattered

	// Of a thread that is woken every Period, before all others: how late it was.
	Beats   int           // wake-ups that were due
	Lost    int           // that nobody knows of: the process had no time to take the notes
	Median  time.Duration // lateness
	P99     time.Duration
	Late    float64       // share of them that was late by more than 2 ms: the share of the time in which nothing could begin
	Stall   time.Duration // longest lateness: so long, at least, nothing ran
	StallAt time.Duration // when it should have woken, since the beginning

	Jump    time.Duration // of CLOCK_MONOTONIC against the processor's counter, the largest between two wake-ups
	JumpAt  time.Duration
	Stepped time.Duration // CLOCK_REALTIME was set by so much

	Busy      float64 // share of the CPUs' time in which they were not idle
	Stolen    float64 // share of it that a hypervisor took, where the kernel knows
	Received  uint64  // packets, at any interface of any node
	Dropped   uint64  // of them, those for which the kernel itself had no room
	Reclaims  uint64  // a process had to free memory before it got any
	Killed    uint64  // processes, for want of memory
	Uncounted error   // what the kernel counts could not be read
}

// New begins to look. It works without privilege, and then sees the lateness of
// an ordinary process.
func New() (*Watch, error) {
	c, err := openCounters()
	if err != nil {
		return nil, err
	}
	p, err := startPulse()
	if err != nil {
		c.close()
		return nil, err
	}
	w := &Watch{pulse: p, counters: c, done: make(chan struct{}), spans: map[*Span]struct{}{}}
	w.drained.Add(1)
	go w.drain()
	return w, nil
}

// Close ends it; spans that are open see nothing more.
func (w *Watch) Close() error {
	close(w.done)
	w.drained.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take()
	w.counters.close()
	return w.pulse.end()
}

// drain takes the notes before the thread writes over them.
func (w *Watch) drain() {
	defer w.drained.Done()
	t := time.NewTicker(drainEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.mu.Lock()
			w.take()
			w.mu.Unlock()
		case <-w.done:
			return
		}
	}
}

// take hands the pulse's notes to the open spans; the caller holds mu.
func (w *Watch) take() {
	beats, lost := w.pulse.take(&w.taken, nil)
	for s := range w.spans {
		s.beats = append(s.beats, beats...)
		s.lost += lost
	}
}

// Begin begins a span.
func (w *Watch) Begin() *Span {
	s := &Span{watch: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take() // what was before belongs to others
	w.spans[s] = struct{}{}
	s.offset = realOffset()
	s.before, _ = w.counters.read() // End reads again, and says what is wrong
	s.begin = clock.Mono()
	return s
}

// Only says that lateness matters between two moments of CLOCK_MONOTONIC alone, in
// nanoseconds. Said several times, it matters in each of these windows. What the
// kernel counts is of the whole span all the same.
func (s *Span) Only(from, to int64) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	s.only = append(s.only, window{from, to})
}

// End ends the span and says what was seen in it. A span is ended once.
func (s *Span) End() Seen {
	w := s.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	end := clock.Mono()
	due := w.pulse.due() // first: a beat that comes now is one of the notes
	w.take()
	delete(w.spans, s)
	seen := Seen{Lasted: time.Duration(end - s.begin), Lost: s.lost}
	if slices.ContainsFunc(s.beats, func(b beat) bool { return b.due == due }) {
		due = end
	}
	windows := s.only
	if windows == nil {
		windows = []window{{s.begin, end}}
	}
	for _, o := range windows {
		seen.Measured += time.Duration(o.to - o.from)
	}
	seen.pace(s.beats, s.begin, end, due, windows)
	seen.Stepped = realOffset() - s.offset
	after, err := w.counters.read()
	if err != nil {
		seen.Uncounted = err
		return seen
	}
	seen.count(s.before, after)
	return seen
}

// count is what the kernel has counted between two readings.
func (s *Seen) count(before, after counters) {
	if up := (after.up - before.up) * float64(runtime.NumCPU()); up > 0 {
		s.Busy = min(1, max(0, 1-(after.idle-before.idle)/up))
		s.Stolen = min(1, max(0, (after.steal-before.steal)/up))
	}
	s.Received, s.Dropped = after.processed-before.processed, after.dropped-before.dropped
	s.Reclaims, s.Killed = after.reclaims-before.reclaims, after.killed-before.killed
}

// realOffset is how far CLOCK_REALTIME is from CLOCK_MONOTONIC: the best of three
// readings, between which the process may have been interrupted. The kernel is
// asked itself: package clock looks at CLOCK_REALTIME once a second.
func realOffset() (offset time.Duration) {
	least := time.Duration(-1)
	for range 3 {
		var a, r, b unix.Timespec
		if errors.Join(unix.ClockGettime(unix.CLOCK_MONOTONIC, &a), unix.ClockGettime(unix.CLOCK_REALTIME, &r), unix.ClockGettime(unix.CLOCK_MONOTONIC, &b)) != nil {
			return 0
		}
		if took := time.Duration(b.Nano() - a.Nano()); least < 0 || took < least {
			least, offset = took, time.Duration(r.Nano()-a.Nano()/2-b.Nano()/2)
		}
	}
	return offset
}
