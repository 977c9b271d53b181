package guest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"sync"
	"time"
)

// A trace is which pages a guest wrote, tick by tick: recorded from a run
// (Config.Record) and played as workload trace. As a file:
//
//	magic, version, then numbers as uvarints: pages of the memory, nanoseconds of
//	a tick, length of the workload's name and the name,
//	then for each tick with writes: ticks since the one before (at least 1), number
//	of pages, the pages ascending, each as its distance from the one before,
//	then 0, and CRC-32C of all before
const (
	traceMagic   = "vpcl-trc"
	traceVersion = 1
	maxTrace     = 512 << 20
)

// TraceInfo is what a trace's head says.
type TraceInfo struct {
	Pages    int
	Tick     time.Duration
	Workload string // whose memory it was
}

// traceTick is the pages written at a tick; ticks are counted from 1.
type traceTick struct {
	tick  uint64
	pages []uint32
}

// traceWriter writes a trace.
type traceWriter struct {
	mu    sync.Mutex
	file  *os.File
	out   *bufio.Writer
	sum   uint32
	now   uint64 // ticks that are over
	last  uint64 // the last that was written
	pages []uint32
	err   error // the first
}

func createTrace(path string, info TraceInfo) (*traceWriter, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	w := &traceWriter{file: f, out: bufio.NewWriterSize(f, 64<<10)}
	b := append([]byte(traceMagic), traceVersion)
	for _, v := range []uint64{uint64(info.Pages), uint64(info.Tick), uint64(len(info.Workload))} {
		b = binary.AppendUvarint(b, v)
	}
	w.put(append(b, info.Workload...))
	return w, nil
}

func (w *traceWriter) put(b []byte) {
	w.sum = crc32.Update(w.sum, castagnoli, b)
	if _, err := w.out.Write(b); err != nil && w.err == nil {
		w.err = err
	}
}

// note records a write to a page in the tick that is now.
func (w *traceWriter) note(page int) {
	w.mu.Lock()
	w.pages = append(w.pages, uint32(page))
	w.mu.Unlock()
}

// tick ends a tick.
func (w *traceWriter) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now++
	if len(w.pages) == 0 {
		return
	}
	slices.Sort(w.pages)
	w.pages = slices.Compact(w.pages)
	b := binary.AppendUvarint(nil, w.now-w.last)
	b = binary.AppendUvarint(b, uint64(len(w.pages)))
	before := uint32(0)
	for _, p := range w.pages {
		b = binary.AppendUvarint(b, uint64(p-before))
		before = p
	}
	w.put(b)
	w.last, w.pages = w.now, w.pages[:0]
}

// close ends the trace; the error is the first there was.
func (w *traceWriter) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put([]byte{0})
	w.put(binary.LittleEndian.AppendUint32(nil, w.sum))
	if err := errors.Join(w.err, w.out.Flush(), w.file.Close()); err != nil {
		return fmt.Errorf("write trace %s: %w", w.file.Name(), err)
	}
	return nil
}

// parseTrace reads a trace. It takes nothing that is not whole, and no more
// memory than a few times the bytes it is given.
func parseTrace(b []byte) (info TraceInfo, ticks []traceTick, err error) {
	const least = len(traceMagic) + 1 + 5
	if len(b) < least || string(b[:len(traceMagic)]) != traceMagic {
		return info, nil, errors.New("not a trace")
	}
	if v := b[len(traceMagic)]; v != traceVersion {
		return info, nil, fmt.Errorf("version %d: want %d", v, traceVersion)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return info, nil, errors.New("checksum does not fit: it was cut off or mangled")
	}
	r := uvarints{b: body[len(traceMagic)+1:]}
	pages, tick := r.next(), r.next()
	info = TraceInfo{int(pages), time.Duration(tick), string(r.bytes(64))}
	if pages == 0 || pages > maxMemory/PageSize || tick == 0 || tick > uint64(time.Minute) {
		return info, nil, fmt.Errorf("%d pages and a tick of %d ns", pages, tick)
	}
	now := uint64(0)
	for {
		passed := r.next()
		if r.err != nil {
			return info, nil, r.err
		}
		if passed == 0 {
			break
		}
		if now += passed; now > 1<<40 {
			return info, nil, fmt.Errorf("tick %d", now)
		}
		t := traceTick{now, make([]uint32, r.count(int(pages)))}
		if err := r.ascending(t.pages, pages); err != nil {
			return info, nil, fmt.Errorf("tick %d: %w", now, err)
		}
		ticks = append(ticks, t)
	}
	if len(r.b) > 0 {
		return info, nil, fmt.Errorf("%d bytes after its end", len(r.b))
	}
	return info, ticks, nil
}

// ascending reads numbers below end, each as its distance from the one before.
func (r *uvarints) ascending(into []uint32, end uint64) error {
	at := uint64(0)
	for i := range into {
		d := r.next()
		if d >= end || at+d >= end || i > 0 && d == 0 {
			return fmt.Errorf("page %d after %d: want ascending ones below %d", at+d, at, end)
		}
		at += d
		into[i] = uint32(at)
	}
	return r.err
}

// playback is workload trace: the writes of a recording over and over, in a
// memory that looks like the recorded workload's.
type playback struct {
	*player
	ticks []traceTick
	every time.Duration
	next  int // of ticks
}

func openPlayback(s Spec) (workload, []uint32, error) {
	fail := func(err error) (workload, []uint32, error) {
		return nil, nil, fmt.Errorf("VM %s: trace %s: %w", s.Name, s.Trace, err)
	}
	if info, err := os.Stat(s.Trace); err == nil && info.Size() > maxTrace {
		return fail(fmt.Errorf("%d bytes: want at most %d", info.Size(), maxTrace))
	}
	b, err := os.ReadFile(s.Trace)
	if err != nil {
		return nil, nil, fmt.Errorf("VM %s: %w", s.Name, err)
	}
	info, ticks, err := parseTrace(b)
	if err != nil {
		return fail(err)
	}
	if int64(info.Pages)*PageSize != s.Memory {
		return fail(fmt.Errorf("it is of a memory of %d bytes", int64(info.Pages)*PageSize))
	}
	p, known := profiles[info.Workload]
	if !known || len(ticks) == 0 {
		return fail(fmt.Errorf("of workload %q, with %d ticks", info.Workload, len(ticks)))
	}
	p.sweeps = nil
	traced := make([]bool, info.Pages)
	for _, t := range ticks {
		for _, q := range t.pages {
			traced[q] = true
		}
	}
	pl := buildPlan(s, p, traced)
	if len(pl.app) == 0 {
		return fail(errors.New("it writes all pages and leaves none to the server"))
	}
	return &playback{player: newPlayer(pl), ticks: ticks, every: info.Tick}, pl.app, nil
}

func (p *playback) tick() time.Duration { return p.every }

func (p *playback) step(m *Memory) error {
	var wrong []error
	p.readSome(m, &wrong)
	for _, q := range p.due() {
		if err := p.write(m, int(q)); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// due counts a tick and tells what is written at it.
func (p *playback) due() []uint32 {
	p.player.ticks++
	length := p.ticks[len(p.ticks)-1].tick
	t := p.ticks[p.next]
	if (p.player.ticks-1)%length+1 != t.tick {
		return nil
	}
	p.next = (p.next + 1) % len(p.ticks)
	return t.pages
}

func (p *playback) load(s *cpuState) error {
	for p.player.ticks < s.ticks {
		for _, q := range p.due() {
			p.written(int(q))
		}
	}
	return p.player.load(s)
}
