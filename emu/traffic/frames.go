package traffic

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/topo"
)

// LANPort is a machine as others on its LAN know it.
type LANPort struct {
	Endpoint
	Station int // at the Ether: its interface
	MAC     topo.MAC
}

// FrameConfig says what to ask and for how long.
type FrameConfig struct {
	Ports []LANPort
	// Allowed says which ordered pairs are on one LAN; frames between all
	// others must not pass.
	Allowed func(from, to Endpoint) bool
	// Deadline is how long allowed pairs are tried again; default 10 s.
	Deadline time.Duration
	// Grace is how long forbidden pairs get after the last frame; it must be
	// more than the longest way takes. Default 40 ms.
	Grace time.Duration
	// Burst is how many frames may be under way at once; it must be less than
	// the shortest queue on the way. Default 256.
	Burst int
	// Flood bounds the copies that bridges make of frames to machines that
	// are not on the LAN: of machines of one LAN that would exceed it, only
	// some try each such address, in turns. Default 100,000.
	Flood int
	// Seed orders the frames.
	Seed uint64
	// Stray is told of frames that are seen at stations that are of no port.
	Stray func(from Endpoint, f *Frame)
}

func (c *FrameConfig) defaults() {
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Second
	}
	if c.Grace == 0 {
		c.Grace = 40 * time.Millisecond
	}
	if c.Burst == 0 {
		c.Burst = 256
	}
	if c.Flood == 0 {
		c.Flood = 100_000
	}
	if c.Stray == nil {
		c.Stray = func(Endpoint, *Frame) {}
	}
}

// FrameMatrix is which machines' frames came to which machines. Rows are
// senders, columns receivers.
type FrameMatrix struct {
	Endpoints []Endpoint
	// Cells[i] is row i, one byte a column, as in Matrix: '.' self, 'A'
	// allowed, and a broadcast and a unicast frame have arrived; 'a' allowed,
	// and one or both have not; 'f' forbidden and nothing arrived; 'L'
	// forbidden and something arrived.
	Cells []string

	Allowed, Reached, Forbidden, Leaks int
	Missing                            []FramePair // the cells 'a'
	Leaked                             []FramePair // the cells 'L'
	// Doubled are pairs of which a frame arrived more than once, or came back
	// to its sender: a loop, or two ways to one LAN.
	Doubled []FramePair

	// Frames were sent, Seen were received at any station. Refused were not
	// taken by the sender's own kernel.
	Frames, Seen, Refused int
	// Tried counts pairs without a LAN in common of which the one sent
	// unicast frames to the other's address; Untried those left out for
	// Flood. Broadcasts are tried by all.
	Tried, Untried int

	Start, End event.Mono
}

// FramePair is an ordered pair that is not as it should be, and what is known.
type FramePair struct {
	From, To string
	// Broadcasts and Unicasts of From that arrived at To, copies not counted.
	Broadcasts, Unicasts int
	Copies               int // frames that had arrived before
}

func (p FramePair) String() string {
	return fmt.Sprintf("%s -> %s: %d broadcast and %d unicast frames arrived, and %d copies", p.From, p.To, p.Broadcasts, p.Unicasts, p.Copies)
}

// frameSent is a frame of the matrix.
type frameSent struct {
	from int
	to   int      // column that is to get it; -1: a broadcast, -2: a machine on no common LAN
	got  bool     // by that column
	at   []uint64 // a broadcast: bits of the columns that have received it
}

const (
	toAll     = -1
	toForeign = -2
)

// frameCell is what is known of an ordered pair.
type frameCell struct {
	allowed                      bool
	broadcasts, unicasts, copies uint16
}

// frameRun is a FrameMatrix in the making.
type frameRun struct {
	e     *Ether
	cfg   FrameConfig
	m     *FrameMatrix
	n     int
	cells []frameCell // row-major
	lan   []int       // allowed partners of each row
	at    map[int]int // station -> column
	first uint32      // number of sent[0]
	sent  []frameSent
	since int // first of sent that is under way
	due   int // allowed arrivals that those under way have still to make
}

// Frames asks every ordered pair below IP: each machine sends broadcast frames
// and unicast frames to the address of every machine, and at every machine it
// is noted whose frames arrive and how often. Pairs that do not reach are in
// the result and are no error.
//
// Broadcasts come first, so that bridges know where everybody is. Frames to
// addresses that are not on the sender's LAN are flooded all over it: that is
// the way on which they would leave it.
func (e *Ether) Frames(ctx context.Context, cfg FrameConfig) (*FrameMatrix, error) {
	cfg.defaults()
	run := newFrameRun(e, cfg)
	run.m.Start = event.Now()
	deadline := time.Now().Add(cfg.Deadline)
	err := run.broadcasts(ctx, deadline)
	if err == nil {
		err = run.unicasts(ctx, deadline)
	}
	if err == nil {
		err = run.foreign(ctx)
	}
	if err == nil {
		err = run.wait(ctx, time.Now().Add(cfg.Grace), func() bool { return false })
	}
	if err != nil {
		return nil, fmt.Errorf("frames: %w", err)
	}
	run.result()
	run.m.End = event.Now()
	return run.m, nil
}

func newFrameRun(e *Ether, cfg FrameConfig) *frameRun {
	n := len(cfg.Ports)
	run := &frameRun{e: e, cfg: cfg, m: &FrameMatrix{}, n: n, cells: make([]frameCell, n*n), lan: make([]int, n), at: make(map[int]int, n), first: e.Numbers(0)}
	for i, p := range cfg.Ports {
		run.m.Endpoints = append(run.m.Endpoints, p.Endpoint)
		run.at[p.Station] = i
		for j, q := range cfg.Ports {
			if i != j && cfg.Allowed(p.Endpoint, q.Endpoint) {
				run.cells[i*n+j].allowed = true
				run.lan[i]++
			}
		}
	}
	return run
}

// longestPause between two tries at what was lost.
const longestPause = 500 * time.Millisecond

// untilAll has round send what has not arrived yet, again after each pause,
// until it has nothing to send or the deadline has passed.
func (run *frameRun) untilAll(ctx context.Context, deadline time.Time, round func(v *volley, first bool) error) error {
	for pause, n := run.cfg.Grace, 0; ; n++ {
		v := run.newVolley(ctx)
		sent := len(run.sent)
		if err := round(v, n == 0); err != nil {
			return err
		}
		if err := v.settle(pause); err != nil {
			return err
		}
		if len(run.sent) == sent || time.Now().After(deadline) {
			return nil
		}
		if n > 0 {
			pause = min(2*pause, max(longestPause, run.cfg.Grace))
		}
	}
}

// broadcasts sends a broadcast of every machine, and another of those whose
// LAN has not received it. The first goes out for those, too, whom it must not
// reach.
func (run *frameRun) broadcasts(ctx context.Context, deadline time.Time) error {
	order := rand.New(rand.NewPCG(run.cfg.Seed, 1)).Perm(run.n)
	return run.untilAll(ctx, deadline, func(v *volley, first bool) error {
		for _, i := range order {
			missing := 0
			for _, c := range run.cells[i*run.n : (i+1)*run.n] {
				if c.allowed && c.broadcasts == 0 {
					missing++
				}
			}
			if !first && missing == 0 {
				continue
			}
			if err := v.send(i, toAll, broadcastMAC, missing); err != nil {
				return err
			}
		}
		return nil
	})
}

// unicasts sends a frame to every machine of the sender's LAN.
func (run *frameRun) unicasts(ctx context.Context, deadline time.Time) error {
	order := rand.New(rand.NewPCG(run.cfg.Seed, 2)).Perm(run.n)
	return run.untilAll(ctx, deadline, func(v *volley, _ bool) error {
		for _, i := range order {
			for _, j := range order {
				c, to := run.cells[i*run.n+j], run.cfg.Ports[j].MAC
				if !c.allowed || c.unicasts > 0 || to == run.cfg.Ports[i].MAC {
					continue
				}
				if err := v.send(i, j, to, 1); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// foreign sends unicast frames to the addresses of all machines that are not
// on the sender's LAN. Addresses that are on it as well (two VPCs may have
// machines with the same one) have been tried.
func (run *frameRun) foreign(ctx context.Context) error {
	v, stride := run.newVolley(ctx), run.stride()
	for _, i := range rand.New(rand.NewPCG(run.cfg.Seed, 3)).Perm(run.n) {
		to, tried := run.foreignTo(i, min(stride, run.lan[i]+1))
		run.m.Tried += tried
		run.m.Untried += run.n - 1 - run.lan[i] - tried
		for k, mac := range to {
			if err := v.send(i, toForeign, mac, 0); err != nil {
				return err
			}
			// A broadcast behind them tells when they have gone through.
			if last := k == len(to)-1; last || k%run.cfg.Burst == run.cfg.Burst-1 {
				if err := v.send(i, toAll, broadcastMAC, run.lan[i]); err != nil {
					return err
				}
			}
		}
	}
	return v.settle(run.cfg.Grace)
}

// foreignTo are the foreign addresses that machine i tries, each once, and how
// many machines have them.
func (run *frameRun) foreignTo(i, stride int) (to []topo.MAC, machines int) {
	known := map[topo.MAC]bool{run.cfg.Ports[i].MAC: true}
	for j, p := range run.cfg.Ports {
		if run.cells[i*run.n+j].allowed {
			known[p.MAC] = true
		}
	}
	for j, p := range run.cfg.Ports {
		if i == j || run.cells[i*run.n+j].allowed || (i+j)%stride != 0 {
			continue
		}
		machines++
		if !known[p.MAC] {
			known[p.MAC] = true
			to = append(to, p.MAC)
		}
	}
	return to, machines
}

// stride is by how much the foreign frames are to be thinned.
func (run *frameRun) stride() int {
	copies := 0
	for i := range run.n {
		copies += (run.n - 1 - run.lan[i]) * max(1, run.lan[i])
	}
	return 1 + copies/run.cfg.Flood
}

var broadcastMAC = topo.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// minFrame is the shortest Ethernet frame without its check sequence.
const minFrame = 60

// volley sends frames so that not too many are under way.
type volley struct {
	run    *frameRun
	ctx    context.Context
	from   int
	frames [][]byte
	store  []byte
}

func (run *frameRun) newVolley(ctx context.Context) *volley {
	return &volley{run: run, ctx: ctx, store: make([]byte, 0, minFrame*batchLen)}
}

// send queues a frame that so many machines are to receive.
func (v *volley) send(from, to int, dst topo.MAC, due int) error {
	if len(v.frames) == batchLen || len(v.frames) > 0 && from != v.from {
		if err := v.flush(); err != nil {
			return err
		}
	}
	run := v.run
	number := run.e.Numbers(1)
	if len(run.sent) == 0 {
		run.first = number
	}
	s := frameSent{from: from, to: to}
	if to == toAll {
		s.at = make([]uint64, (run.n+63)/64)
	}
	run.sent = append(run.sent, s)
	at := len(v.store)
	v.store = AppendEthernet(v.store, dst, run.cfg.Ports[from].MAC, EtherType)
	v.store = run.e.AppendMark(v.store, number)
	v.store = append(v.store, make([]byte, minFrame-(len(v.store)-at))...)
	v.frames = append(v.frames, v.store[at:])
	v.from = from
	run.due += due
	if len(run.sent)-run.since < run.cfg.Burst {
		return nil
	}
	return v.settle(run.cfg.Grace)
}

// flush sends what is queued.
func (v *volley) flush() error {
	if len(v.frames) == 0 {
		return nil
	}
	refused, _, err := v.run.e.Send(v.run.cfg.Ports[v.from].Station, v.frames)
	v.run.m.Frames += len(v.frames)
	v.run.m.Refused += refused
	v.frames, v.store = v.frames[:0], v.store[:0]
	return err
}

// settle sends what is queued and waits until all that is due has arrived, at
// most so long. Where nothing is due it only reads what is there.
func (v *volley) settle(pause time.Duration) error {
	if err := v.flush(); err != nil {
		return err
	}
	run := v.run
	if run.due <= 0 {
		pause = 0
	}
	err := run.wait(v.ctx, time.Now().Add(pause), func() bool { return run.due <= 0 })
	run.since, run.due = len(run.sent), 0
	return err
}

// wait reads until done or the time; what waits already is read in any case.
func (run *frameRun) wait(ctx context.Context, until time.Time, done func() bool) error {
	for {
		n, err := run.e.Read(max(0, time.Until(until)), run.take)
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if n == 0 || done() {
			return nil
		}
	}
}

// take books a frame that has arrived somewhere.
func (run *frameRun) take(f *Frame) {
	number, _, ok := run.e.Marked(f.Data)
	if !ok || number < run.first || int(number-run.first) >= len(run.sent) {
		return
	}
	run.m.Seen++
	k := int(number - run.first)
	s := &run.sent[k]
	j, port := run.at[f.Station]
	if !port {
		run.cfg.Stray(run.m.Endpoints[s.from], f)
		return
	}
	c := &run.cells[s.from*run.n+j]
	switch {
	case s.to == toAll:
		s.broadcast(c, j)
	case s.to == j && s.got:
		c.copies++
		return
	case s.to == j:
		s.got = true
		c.unicasts++
	case !c.allowed && s.from != j: // not flooding on the LAN
		c.unicasts++
	}
	if k >= run.since && c.allowed && (s.to == toAll || s.to == j) {
		run.due--
	}
}

// broadcast books the arrival of a broadcast at column j.
func (s *frameSent) broadcast(c *frameCell, j int) {
	bit := uint64(1) << (j % 64)
	if s.at[j/64]&bit != 0 || s.from == j { // once more, or back at its sender
		c.copies++
	} else {
		c.broadcasts++
	}
	s.at[j/64] |= bit
}

// result fills in the matrix.
func (run *frameRun) result() {
	m := run.m
	for i := range run.n {
		row := make([]byte, run.n)
		for j := range run.n {
			row[j] = run.judge(i, j)
		}
		m.Cells = append(m.Cells, string(row))
	}
}

func (run *frameRun) judge(i, j int) byte {
	m, c := run.m, run.cells[i*run.n+j]
	pair := FramePair{From: m.Endpoints[i].Name, To: m.Endpoints[j].Name, Broadcasts: int(c.broadcasts), Unicasts: int(c.unicasts), Copies: int(c.copies)}
	if c.copies > 0 && (i == j || c.allowed) {
		m.Doubled = append(m.Doubled, pair)
	}
	unicast := c.unicasts > 0 || run.cfg.Ports[i].MAC == run.cfg.Ports[j].MAC // one's own address cannot be asked
	switch {
	case i == j:
		return '.'
	case c.allowed && c.broadcasts > 0 && unicast:
		m.Allowed++
		m.Reached++
		return 'A'
	case c.allowed:
		m.Allowed++
		m.Missing = append(m.Missing, pair)
		return 'a'
	case c.broadcasts+c.unicasts > 0:
		m.Forbidden++
		m.Leaks++
		m.Leaked = append(m.Leaked, pair)
		return 'L'
	}
	m.Forbidden++
	return 'f'
}
