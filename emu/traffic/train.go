package traffic

import (
	"context"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Flow is an ordered pair of machines.
type Flow struct{ From, To string }

// TrainConfig describes probes at a steady pace over some flows at once.
type TrainConfig struct {
	Flows []Flow
	// Addrs, where there are any, are an address for each flow that its probes
	// are sent to in place of its To's own: another one of the same machine.
	Addrs []netip.Addr
	// Interval between the probes of one flow; default 2 ms.
	Interval time.Duration
	// Duty is the share of one CPU that the train may take, 0..1; default
	// 0.15. With many flows the interval is stretched to stay within it,
	// since the lab's routers and BGP processes run on the same CPU.
	// TrainResult gives the intervals as they were.
	Duty float64
	// UntilFirst ends a flow when its first probe has arrived.
	UntilFirst bool
	// Log keeps every arrival, for one-way delays; see Arrival. It costs one
	// reading of the clock more a sender and tick.
	Log bool
}

// Train is a probe train under way.
type Train struct {
	p       *Prober
	id      uint32
	cfg     TrainConfig
	flows   []*flow
	senders []*sender
	started event.Mono

	stop     chan struct{} // closed by halt
	ending   sync.Mutex    // held by Stop
	result   *TrainResult  // of the first Stop, guarded by ending
	stopOnce sync.Once
	done     chan struct{} // closed when the sending goroutine has ended
	wake     chan struct{} // told of arrivals while someone waits

	// guarded by Prober.mu
	ticks      []event.Mono // when each probe number left
	err        error
	unreached  int // flows without an arrival
	maxTransit time.Duration
}

// sender is one machine with its flows of a train.
type sender struct {
	from  *point
	flows []*flow
}

// flow is a Flow under way; guarded by Prober.mu except from, to and dst.
type flow struct {
	from, to *point
	dst      *net.UDPAddr
	index    uint32

	active    bool
	sent      uint64 // probes 0 … sent-1 have left
	received  uint64
	double    uint64
	elsewhere uint64
	refused   uint64
	why       string
	got       []uint64 // bit set of received numbers
	first     Arrival
	last      Arrival
	log       []Arrival
}

// Arrival is one probe of a train that came through. Sent is read just before
// the machines' batches of that number are handed to the kernel (with
// TrainConfig.Log: before this machine's), Received is the kernel's time stamp
// at the receiver. Both are of the one clock of the lab's kernel, so their
// difference is the way's own delay, no half of a round trip.
type Arrival struct {
	Seq            uint64
	Sent, Received event.Mono
}

// Delay is how long the probe was under way.
func (a Arrival) Delay() time.Duration { return a.Received.Sub(a.Sent) }

// StartTrain starts to send and returns. Stop ends it.
//
// The first probe of a flow may wait in the kernel for neighbour resolution on
// each hop, as any first packet would: that wait is part of what is measured.
func (p *Prober) StartTrain(cfg TrainConfig) (*Train, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 2 * time.Millisecond
	}
	if cfg.Duty == 0 {
		cfg.Duty = 0.15
	}
	t := &Train{p: p, cfg: cfg, stop: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	bySender := map[*point]*sender{}
	for i, f := range cfg.Flows {
		ends, err := p.pick([]string{f.From, f.To})
		if err != nil {
			return nil, err
		}
		dst := ends[1].Addr
		if i < len(cfg.Addrs) {
			dst = cfg.Addrs[i]
		}
		fl := &flow{from: ends[0], to: ends[1], dst: addrOf(dst), index: uint32(i), active: true}
		t.flows = append(t.flows, fl)
		s := bySender[fl.from]
		if s == nil {
			s = &sender{from: fl.from}
			bySender[fl.from] = s
			t.senders = append(t.senders, s)
		}
		s.flows = append(s.flows, fl)
	}
	p.alignClocks()
	p.mu.Lock()
	p.lastID++
	t.id = p.lastID
	t.unreached = len(t.flows)
	p.trains[t.id] = t
	p.mu.Unlock()
	t.started = event.Now()
	go t.send()
	return t, nil
}

// send is the train's goroutine: one tick an interval, until stop.
func (t *Train) send() {
	defer close(t.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := t.started
	var cost time.Duration
	for n := 1; ; n++ {
		select {
		case <-t.stop:
			return
		case <-timer.C:
		}
		began := event.Now()
		live, through, err := t.tick(began)
		if err != nil {
			t.p.mu.Lock()
			t.err = err
			t.p.mu.Unlock()
			return
		}
		now := event.Now()
		took := time.Duration(float64(now.Sub(began)) * (1 + receiving*through))
		// One stall of the machine is no cost: the estimate is the less of the
		// first two and grows by a quarter a tick at most.
		switch n {
		case 1:
			cost = took
		case 2:
			cost = min(cost, took)
		default:
			cost = (3*cost + min(took, 2*cost)) / 4
		}
		pace := t.cfg.Interval
		if n > 1 {
			pace = max(pace, time.Duration(float64(cost)/t.cfg.Duty))
		}
		if !live {
			pace = max(pace, 20*time.Millisecond) // nothing to send any more; Stop will come
		}
		// A late tick is not made up for: a burst would measure itself.
		if next += event.Mono(pace); next < now {
			next = now
		}
		timer.Reset(next.Sub(now))
	}
}

// receiving is what the arrival of a probe costs against its sending: it wakes
// a goroutine, which reads twice, while many probes leave by one system call.
const receiving = 3

// tick sends the next probe of every active flow. through is the share of them
// that have got a probe through before.
func (t *Train) tick(now event.Mono) (live bool, through float64, err error) {
	sent := 0
	for _, s := range t.senders {
		n, err := t.tickFrom(s, now)
		if err != nil {
			return false, 0, err
		}
		sent += n
	}
	if sent == 0 {
		return false, 0, nil
	}
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.ticks = append(t.ticks, now)
	if !t.cfg.UntilFirst {
		through = float64(len(t.flows)-t.unreached) / float64(len(t.flows))
	}
	return true, through, nil
}

func (t *Train) tickFrom(s *sender, now event.Mono) (sent int, err error) {
	s.from.sendMu.Lock()
	defer s.from.sendMu.Unlock()
	for flows := s.flows; len(flows) > 0; {
		chunk := flows[:min(batchLen, len(flows))]
		flows = flows[len(chunk):]
		batch := make([]*flow, 0, len(chunk))
		sentAt := now
		if t.cfg.Log {
			sentAt = event.Now()
		}
		t.p.mu.Lock()
		seq := uint64(len(t.ticks))
		for _, f := range chunk {
			if !f.active {
				continue
			}
			pr := probe{kind: kindTrain, nonce: t.p.nonce, sender: s.from.id, target: f.index, round: t.id, seq: seq, sent: sentAt}
			pr.put(s.from.out[len(batch)].Buffers[0])
			s.from.out[len(batch)].Addr = f.dst
			batch = append(batch, f)
			f.sent = seq + 1 // before it leaves: an arrival may be logged at once
		}
		t.p.mu.Unlock()
		if len(batch) == 0 {
			continue
		}
		sent += len(batch)
		err := s.from.write(s.from.out[:len(batch)], func(i int, why error) {
			t.p.mu.Lock()
			batch[i].refused++
			batch[i].why = errnoText(why)
			t.p.mu.Unlock()
		})
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// arrived logs a train's probe at its receiver. Called with Prober.mu held.
func (t *Train) arrived(at *point, pr *probe, when event.Mono) {
	if pr.target >= uint32(len(t.flows)) {
		return
	}
	f := t.flows[pr.target]
	switch {
	case at != f.to:
		f.elsewhere++
		return
	case f.has(pr.seq):
		f.double++
		return
	}
	f.mark(pr.seq)
	f.received++
	a := Arrival{Seq: pr.seq, Sent: pr.sent, Received: when}
	if t.cfg.Log {
		f.log = append(f.log, a)
	}
	if f.received == 1 {
		f.first = a
		t.unreached--
		if t.cfg.UntilFirst {
			f.active = false
		}
	}
	if f.received == 1 || when >= f.last.Received {
		f.last = a
	}
	t.maxTransit = max(t.maxTransit, when.Sub(pr.sent))
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (f *flow) has(seq uint64) bool { return hasBit(f.got, seq) }

func hasBit(set []uint64, n uint64) bool {
	return n/64 < uint64(len(set)) && set[n/64]&(1<<(n%64)) != 0
}

func (f *flow) mark(seq uint64) {
	for seq/64 >= uint64(len(f.got)) {
		f.got = append(f.got, 0)
	}
	f.got[seq/64] |= 1 << (seq % 64)
}

// WaitFirst waits until every flow has had an arrival; the error names those
// that had none.
func (t *Train) WaitFirst(ctx context.Context) error {
	for {
		t.p.mu.Lock()
		left, err := t.unreached, t.err
		t.p.mu.Unlock()
		if err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		select {
		case <-t.wake:
		case <-ctx.Done():
			return fmt.Errorf("first packets: nothing has arrived yet on %s: %w", t.silent(), context.Cause(ctx))
		}
	}
}

// silent names the flows without an arrival.
func (t *Train) silent() string {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	var names []string
	for _, f := range t.flows {
		if f.received == 0 {
			names = append(names, f.from.Name+" -> "+f.to.Name)
		}
	}
	if len(names) > 8 {
		names = append(names[:8], fmt.Sprintf("… and %d more", len(names)-8))
	}
	return strings.Join(names, ", ")
}

// halt ends the sending and waits for its goroutine.
func (t *Train) halt() {
	t.stopOnce.Do(func() { close(t.stop) })
	<-t.done
}

// TrainResult is what a train saw.
type TrainResult struct {
	Flows []FlowResult // in the order asked for
	Start event.Mono
	// Interval is the median time between two probes of a flow as they were
	// sent, Longest the longest: no time taken from this train is finer.
	Interval, Longest time.Duration
	Sent, Lost        uint64 // over all flows
	// MaxTransit is the longest way of a probe, from sending to receipt.
	MaxTransit time.Duration

	ticks []event.Mono
	got   [][]uint64 // by flow: bit set of received numbers
}

// Each goes through the probes of a flow in the order they were sent.
func (r *TrainResult) Each(flow int, fn func(seq uint64, sent event.Mono, ok bool)) {
	for seq := uint64(0); seq < r.Flows[flow].Sent && seq < uint64(len(r.ticks)); seq++ {
		fn(seq, r.ticks[seq], hasBit(r.got[flow], seq))
	}
}

// FlowResult is one flow of a train.
type FlowResult struct {
	Flow
	Sent, Received, Lost uint64
	Double               uint64 // arrived more than once
	Elsewhere            uint64 // arrived at a machine that was not meant
	Refused              uint64 // not sent: the sender's kernel refused; counted in Lost
	Why                  string // of the last refusal
	First, Last          Arrival
	Arrivals             []Arrival // all, in the order they came in; with TrainConfig.Log
	Gaps                 []Gap     // runs of lost probes, in order; before the first and after the last arrival included
}

// Gap is a run of lost probes.
type Gap struct {
	Seq, Lost uint64
	// From is when the first lost probe was sent, To when the first that
	// came through again was sent (or the train ended): the outage lasted
	// To - From, give or take one interval at each end.
	From, To event.Mono
}

// Length of the outage.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Stop ends the sending, waits until what is under way has arrived or had
// time enough (three times the longest transit seen, at least 40 ms), and
// returns what was seen. A train that was only to find the first packets does
// not wait when it has them. Stopping again returns the same.
func (t *Train) Stop(ctx context.Context) (*TrainResult, error) {
	t.ending.Lock()
	defer t.ending.Unlock()
	if t.result != nil {
		return t.result, nil
	}
	t.halt()
	end := event.Now()
	err := t.drain(ctx)
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	delete(t.p.trains, t.id)
	if err == nil {
		err = t.err
	}
	if err != nil {
		return nil, err
	}
	r := &TrainResult{Start: t.started, MaxTransit: t.maxTransit, ticks: t.ticks}
	r.Interval, r.Longest = spacing(t.ticks)
	for _, f := range t.flows {
		fr := f.result(t.ticks, end)
		r.Sent += fr.Sent
		r.Lost += fr.Lost
		r.Flows = append(r.Flows, fr)
		r.got = append(r.got, f.got)
	}
	t.result = r
	return r, nil
}

// drain waits for the probes that are still on their way.
func (t *Train) drain(ctx context.Context) error {
	t.p.mu.Lock()
	wait := max(40*time.Millisecond, 3*t.maxTransit)
	t.p.mu.Unlock()
	grace := time.NewTimer(wait)
	defer grace.Stop()
	for {
		t.p.mu.Lock()
		all := true
		for _, f := range t.flows {
			all = all && (f.received+f.refused >= f.sent || t.cfg.UntilFirst && f.received > 0)
		}
		t.p.mu.Unlock()
		if all {
			return nil
		}
		select {
		case <-t.wake:
		case <-grace.C:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("probe train: waiting for the last probes: %w", context.Cause(ctx))
		}
	}
}

// spacing is the median and the longest time between ticks.
func spacing(ticks []event.Mono) (median, longest time.Duration) {
	if len(ticks) < 2 {
		return 0, 0
	}
	gaps := make([]time.Duration, len(ticks)-1)
	for i := range gaps {
		gaps[i] = ticks[i+1].Sub(ticks[i])
	}
	slices.Sort(gaps)
	return gaps[len(gaps)/2], gaps[len(gaps)-1]
}

func (f *flow) result(ticks []event.Mono, end event.Mono) FlowResult {
	r := FlowResult{
		Flow: Flow{f.from.Name, f.to.Name}, Sent: f.sent, Received: f.received, Lost: f.sent - f.received,
		Double: f.double, Elsewhere: f.elsewhere, Refused: f.refused, Why: f.why, First: f.first, Last: f.last, Arrivals: f.log,
	}
	when := func(seq uint64) event.Mono {
		if seq < uint64(len(ticks)) {
			return ticks[seq]
		}
		return end
	}
	for seq := uint64(0); seq < f.sent; {
		if f.has(seq) {
			seq++
			continue
		}
		from := seq
		for seq < f.sent && !f.has(seq) {
			seq = f.nextReceived(seq)
		}
		r.Gaps = append(r.Gaps, Gap{Seq: from, Lost: seq - from, From: when(from), To: when(seq)})
	}
	return r
}

// nextReceived is the first received number after seq, or sent.
func (f *flow) nextReceived(seq uint64) uint64 {
	for seq++; seq < f.sent; {
		if seq/64 >= uint64(len(f.got)) {
			return f.sent
		}
		if rest := f.got[seq/64] >> (seq % 64); rest != 0 {
			return min(f.sent, seq+uint64(bits.TrailingZeros64(rest)))
		}
		seq = (seq/64 + 1) * 64
	}
	return f.sent
}
