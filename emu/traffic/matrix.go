package traffic

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// MatrixConfig says what to ask and for how long.
type MatrixConfig struct {
	// Among names the machines to take; nil means all of the Prober.
	Among []string
	// Allowed says which ordered pairs must reach each other; all others must
	// not.
	Allowed func(from, to Endpoint) bool
	// Deadline is how long allowed pairs are asked again; default 10 s.
	Deadline time.Duration
	// DespiteMissing has the forbidden pairs asked also when allowed ones have
	// not answered at the deadline.
	DespiteMissing bool
	// Rounds is how often each address that some forbidden machine has is
	// sent a probe after all allowed pairs have answered; default 3. The
	// first asks for an answer, the others only for a trace at the receiver.
	Rounds int
	// MinGrace is the least time that forbidden pairs get after the last
	// probe; the grace is this or the longest round trip seen, whichever is
	// more: twice the time that a probe would have needed, since it counts as
	// soon as it arrives. Default 40 ms.
	MinGrace time.Duration
	// Seed orders the probes.
	Seed uint64
}

func (c *MatrixConfig) defaults() {
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Second
	}
	if c.Rounds == 0 {
		c.Rounds = 3
	}
	if c.MinGrace == 0 {
		c.MinGrace = 40 * time.Millisecond
	}
}

// Matrix is who could reach whom. Rows are senders, columns receivers.
type Matrix struct {
	Endpoints []Endpoint
	// Cells[i] is row i, one byte a column: '.' self, 'A' allowed and
	// reached (asked, and the answer came back with the right identity), 'a'
	// allowed and not reached, 'f' forbidden and nothing arrived, 'L'
	// forbidden and something arrived, '=' forbidden and with the sender's own
	// address, so that nothing can be asked.
	Cells []string

	Allowed, Reached, Forbidden, Leaks int
	Missing                            []Pair // the cells 'a'
	Leaked                             []Pair // the cells 'L'

	// Asked and Answered count the probes to allowed pairs and their
	// answers: how much a single unanswered probe to a forbidden one proves.
	Asked, Answered int
	// Probes counts all probes sent; Refused those that the sender's own
	// kernel would not send (firewall, no route).
	Probes, Refused int
	// Rounds is how often each forbidden pair was asked after the last
	// allowed pair had answered.
	Rounds int

	Start, AllReached, End event.Mono // AllReached: arrival of the last first answer, or 0
	Grace                  time.Duration
	// Round trips of first answers. Probes leave in bursts and the first one
	// on a path waits for neighbour resolution, so these bound the path's
	// round trip from above.
	RTTMin, RTTMedian, RTTMax time.Duration
}

// Pair is an ordered pair that is not as it should be, and what is known.
type Pair struct {
	From, To string
	Addr     netip.Addr // that was asked
	Arrivals int        // probes of From that To received
	Answered bool       // From has To's answer
	First    event.Mono // of the arrivals
	Refused  string     // why From's kernel would not send, if so
}

func (p Pair) String() string {
	s := fmt.Sprintf("%s -> %s (%s): ", p.From, p.To, p.Addr)
	switch {
	case p.Answered:
		return s + "answered"
	case p.Arrivals > 0:
		return s + fmt.Sprintf("%d probes arrived, no answer came back", p.Arrivals)
	case p.Refused != "":
		return s + "the sender's kernel refused: " + p.Refused
	}
	return s + "nothing arrived"
}

// Incomplete says which allowed pairs did not answer in time.
type Incomplete struct {
	Deadline time.Duration
	Missing  []Pair
}

func (e *Incomplete) Error() string {
	const show = 8
	var b strings.Builder
	fmt.Fprintf(&b, "reachability: waited %v, %d allowed pairs have not answered:", e.Deadline, len(e.Missing))
	for i, m := range e.Missing {
		if i == show {
			fmt.Fprintf(&b, " … and %d more", len(e.Missing)-show)
			break
		}
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(" " + m.String())
	}
	return b.String()
}

// question is one address that one machine asks. Several pairs share it where
// several machines have the address: whose identity arrives tells which of
// them it reached.
type question struct {
	from      int        // row
	to        *point     // a machine with that address; an allowed one if there is one
	addr      netip.Addr // asked
	dst       *net.UDPAddr
	wanted    int // column whose answer is due, or -1
	forbidden bool
}

// cell is what is known of an ordered pair.
type cell struct {
	allowed  bool
	answered bool
	arrivals uint32
	first    event.Mono
}

// refusal is a question that the sender's kernel would not send.
type refusal struct {
	row  int
	addr netip.Addr
}

// matrixRun is a Matrix in the making; all but the constant part is guarded by
// Prober.mu.
type matrixRun struct {
	points  []*point
	row     map[uint32]int // by identity
	cells   []cell         // row-major
	asks    []question
	refused map[refusal]string
	pace    time.Duration // of a burst whose answers came; used by the asking goroutine alone
	wake    chan struct{} // told when missing or inFlight went down

	missing    int // allowed pairs not answered yet
	answers    int // to questions with a wanted column
	lastFirst  event.Mono
	roundTrips []time.Duration // of first answers
	longest    time.Duration
}

// Matrix asks every ordered pair. It returns an *Incomplete error, beside the
// Matrix, when allowed pairs had not answered at the deadline; leaks are no
// error, they are in the Matrix. Only one Matrix runs at a time.
//
// First all allowed pairs are asked until they have answered. Then every
// address that belongs to some forbidden machine is sent a probe Rounds times,
// and the grace period waited for. Arrivals are logged at the receivers from the
// first probe to the end.
func (p *Prober) Matrix(ctx context.Context, cfg MatrixConfig) (*Matrix, error) {
	cfg.defaults()
	points, err := p.pick(cfg.Among)
	if err != nil {
		return nil, err
	}
	p.alignClocks()
	run := newMatrixRun(points, cfg)
	if err := p.beginMatrix(run); err != nil {
		return nil, err
	}
	defer p.endMatrix()

	m := &Matrix{Start: event.Now(), Rounds: cfg.Rounds}
	late, err := p.askAllowed(ctx, run, m, cfg.Deadline)
	if err == nil && (!late || cfg.DespiteMissing) {
		err = p.askForbidden(ctx, run, m, cfg)
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	run.result(m, points)
	p.mu.Unlock()
	m.End = event.Now()
	if late {
		return m, &Incomplete{Deadline: cfg.Deadline, Missing: m.Missing}
	}
	return m, nil
}

func (p *Prober) beginMatrix(run *matrixRun) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.matrix != nil {
		return fmt.Errorf("prober: a matrix is being asked already")
	}
	p.matrix = run
	return nil
}

func (p *Prober) endMatrix() {
	p.mu.Lock()
	p.matrix = nil
	p.mu.Unlock()
}

func newMatrixRun(points []*point, cfg MatrixConfig) *matrixRun {
	n := len(points)
	run := &matrixRun{
		points:  points,
		row:     make(map[uint32]int, n),
		cells:   make([]cell, n*n),
		refused: map[refusal]string{},
		pace:    5 * time.Millisecond,
		wake:    make(chan struct{}, 1),
	}
	for i, pt := range points {
		run.row[pt.id] = i
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, 0x6d6174726978))
	for _, i := range rng.Perm(n) {
		run.addRow(i, cfg.Allowed)
	}
	return run
}

// addRow makes the questions of one sender.
func (run *matrixRun) addRow(i int, allowed func(from, to Endpoint) bool) {
	from := run.points[i]
	byAddr := map[netip.Addr]int{}
	for j, to := range run.points {
		if i == j {
			continue
		}
		c := &run.cells[i*len(run.points)+j]
		c.allowed = allowed(from.Endpoint, to.Endpoint)
		if c.allowed {
			run.missing++
		}
		if to.Addr == from.Addr {
			continue // its own address: the kernel keeps such a packet on lo, nobody else can get it
		}
		k, seen := byAddr[to.Addr]
		if !seen {
			k = len(run.asks)
			byAddr[to.Addr] = k
			run.asks = append(run.asks, question{from: i, to: to, addr: to.Addr, dst: addrOf(to.Addr), wanted: -1})
		}
		if q := &run.asks[k]; c.allowed {
			q.to, q.wanted = to, j
		} else {
			q.forbidden = true
		}
	}
}

// askAllowed asks the allowed pairs, again after each pause without an
// answer, until all have answered (late is false) or the deadline has passed.
func (p *Prober) askAllowed(ctx context.Context, run *matrixRun, m *Matrix, deadline time.Duration) (late bool, err error) {
	end := time.NewTimer(deadline)
	defer end.Stop()
	pause := 20 * time.Millisecond
	for round := uint32(0); ; round++ {
		if err := p.ask(ctx, run, m, kindProbe, round, p.unanswered(run)); err != nil {
			return false, err
		}
		again := time.NewTimer(max(pause, 3*p.longestTrip(run)))
		for waiting := true; waiting && p.missing(run) > 0; {
			select {
			case <-ctx.Done():
				again.Stop()
				return false, fmt.Errorf("reachability: %d allowed pairs to go: %w", p.missing(run), context.Cause(ctx))
			case <-end.C:
				again.Stop()
				return true, nil
			case <-again.C:
				waiting = false
			case <-run.wake:
			}
		}
		again.Stop()
		if p.missing(run) == 0 {
			return false, nil
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// askForbidden asks what must stay silent, and waits as long as a working
// path would have needed.
func (p *Prober) askForbidden(ctx context.Context, run *matrixRun, m *Matrix, cfg MatrixConfig) error {
	var which []int
	for k := range run.asks {
		if run.asks[k].forbidden {
			which = append(which, k)
		}
	}
	if len(which) == 0 {
		return nil
	}
	k := kindProbe
	for r := range cfg.Rounds {
		if err := p.ask(ctx, run, m, k, uint32(1000+r), which); err != nil {
			return err
		}
		k = kindCall
	}
	m.Grace = max(cfg.MinGrace, p.longestTrip(run))
	grace := time.NewTimer(m.Grace)
	defer grace.Stop()
	select {
	case <-grace.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reachability: waiting for what must not arrive: %w", context.Cause(ctx))
	}
}

func (p *Prober) unanswered(run *matrixRun) (which []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, q := range run.asks {
		if q.wanted >= 0 && !run.cells[q.from*len(run.points)+q.wanted].answered {
			which = append(which, k)
		}
	}
	return which
}

func (p *Prober) missing(run *matrixRun) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return run.missing
}

func (p *Prober) answers(run *matrixRun) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return run.answers
}

func (p *Prober) longestTrip(run *matrixRun) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return run.longest
}

// burst is how many questions may be open at once: more could overflow the
// queue of a rated link (100 packets and a bandwidth-delay product) and the
// loss would be the prober's own.
const burst = 256

// ask sends the questions once, those of one machine in one system call. After
// a burst it lets the answers catch up; a burst that has none to wait for gets
// as long as those that had took.
func (p *Prober) ask(ctx context.Context, run *matrixRun, m *Matrix, k kind, round uint32, which []int) error {
	sent, due, before, began := 0, 0, p.answers(run), time.Now()
	for len(which) > 0 {
		n := 1
		for n < len(which) && n < batchLen && run.asks[which[n]].from == run.asks[which[0]].from {
			n++
		}
		wanted, err := p.askFrom(run, m, k, round, which[:n])
		if err != nil {
			return err
		}
		which = which[n:]
		sent, due = sent+n, due+wanted
		if sent < burst || len(which) == 0 {
			continue
		}
		if err := p.catchUp(ctx, run, before+due-due/8, due, began); err != nil {
			return err
		}
		took := time.Since(began)
		if due > burst/2 {
			run.pace = max(time.Millisecond, (3*run.pace+took)/4)
		}
		sent, due, before, began = 0, 0, p.answers(run), time.Now()
	}
	return nil
}

// catchUp waits until 7 of 8 questions that are due an answer have it, or as
// long as answers take to come; with none due, until the burst has lasted as
// long as others.
func (p *Prober) catchUp(ctx context.Context, run *matrixRun, target, due int, began time.Time) error {
	p.mu.Lock()
	wait := min(max(2*time.Millisecond, run.longest), 50*time.Millisecond)
	p.mu.Unlock()
	if due == 0 {
		wait = run.pace - time.Since(began)
	}
	timeout := time.NewTimer(max(0, wait))
	defer timeout.Stop()
	for {
		if due > 0 && p.answers(run) >= target {
			return nil
		}
		select {
		case <-run.wake:
		case <-timeout.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("reachability: %w", context.Cause(ctx))
		}
	}
}

// askFrom sends questions that have the same sender; wanted is how many of
// them should be answered.
func (p *Prober) askFrom(run *matrixRun, m *Matrix, k kind, round uint32, which []int) (wanted int, err error) {
	row := run.asks[which[0]].from
	from := run.points[row]
	from.sendMu.Lock()
	defer from.sendMu.Unlock()
	now := event.Now()
	for i, n := range which {
		q := &run.asks[n]
		pr := probe{kind: k, nonce: p.nonce, sender: from.id, target: q.to.id, round: round, seq: uint64(n), sent: now}
		pr.put(from.out[i].Buffers[0])
		from.out[i].Addr = q.dst
		if k == kindProbe && q.wanted >= 0 {
			wanted++
		}
	}
	m.Probes += len(which)
	m.Asked += wanted
	err = from.write(from.out[:len(which)], func(i int, why error) {
		m.Refused++
		run.refused[refusal{row, run.asks[which[i]].addr}] = errnoText(why)
	})
	return wanted, err
}

// arrived logs a probe at its receiver. Called with Prober.mu held.
func (run *matrixRun) arrived(at *point, pr *probe, when event.Mono) {
	i, okFrom := run.row[pr.sender]
	j, okAt := run.row[at.id]
	if !okFrom || !okAt {
		return
	}
	c := &run.cells[i*len(run.points)+j]
	if c.arrivals == 0 {
		c.first = when
	}
	c.arrivals++
}

// answered logs an answer at the machine that had asked. Called with
// Prober.mu held.
func (run *matrixRun) answered(at *point, pr *probe, when event.Mono) {
	i, okAt := run.row[at.id]
	j, okFrom := run.row[pr.answerer]
	if !okAt || !okFrom || pr.sender != at.id || pr.seq >= uint64(len(run.asks)) {
		return
	}
	trip := when.Sub(pr.sent)
	run.longest = max(run.longest, trip)
	if run.asks[pr.seq].wanted == j {
		run.answers++
	}
	c := &run.cells[i*len(run.points)+j]
	if !c.answered {
		c.answered = true
		if c.allowed {
			run.missing--
			run.lastFirst = max(run.lastFirst, when)
			run.roundTrips = append(run.roundTrips, trip)
		}
	}
	select {
	case run.wake <- struct{}{}:
	default:
	}
}

// result fills in m. Called with Prober.mu held.
func (run *matrixRun) result(m *Matrix, points []*point) {
	n := len(points)
	m.Answered = run.answers
	for i := range points {
		m.Endpoints = append(m.Endpoints, points[i].Endpoint)
		row := make([]byte, n)
		for j := range points {
			row[j] = run.judge(m, i, j)
		}
		m.Cells = append(m.Cells, string(row))
	}
	if len(m.Missing) == 0 {
		m.AllReached = run.lastFirst
	}
	if trips := run.roundTrips; len(trips) > 0 {
		slices.Sort(trips)
		m.RTTMin, m.RTTMedian, m.RTTMax = trips[0], trips[len(trips)/2], trips[len(trips)-1]
	}
}

func (run *matrixRun) judge(m *Matrix, i, j int) byte {
	if i == j {
		return '.'
	}
	c := run.cells[i*len(run.points)+j]
	switch {
	case c.allowed && c.answered:
		m.Allowed++
		m.Reached++
		return 'A'
	case c.allowed:
		m.Allowed++
		m.Missing = append(m.Missing, run.pair(i, j, c))
		return 'a'
	case c.arrivals > 0 || c.answered:
		m.Forbidden++
		m.Leaks++
		m.Leaked = append(m.Leaked, run.pair(i, j, c))
		return 'L'
	}
	if run.points[i].Addr == run.points[j].Addr {
		return '=' // a packet to one's own address never leaves: not asked, not counted
	}
	m.Forbidden++
	return 'f'
}

func (run *matrixRun) pair(i, j int, c cell) Pair {
	to := run.points[j]
	return Pair{From: run.points[i].Name, To: to.Name, Addr: to.Addr, Arrivals: int(c.arrivals), Answered: c.answered,
		First: c.first, Refused: run.refused[refusal{i, to.Addr}]}
}
