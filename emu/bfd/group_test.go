package bfd

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// world is two routers with links between them, and a clock of its own.
type world struct {
	t      *testing.T
	now    event.Mono
	ends   [2]*end
	told   [2][]string
	delay  time.Duration
	cut    func(from int, p Packet) bool // what gets lost
	asleep [2]bool                       // who does not run
}

// end is one router's wire.
type end struct {
	w      *world
	number int
	group  *Group
	inbox  []arrival
	sent   []Packet
	ttl    int
}

type arrival struct {
	at       event.Mono
	multihop bool
	in       incoming
}

const ms = time.Millisecond

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: event.Mono(time.Hour), delay: ms}
	for i := range w.ends {
		w.ends[i] = &end{w: w, number: i, ttl: gtsm}
		w.ends[i].group = newGroup(w.ends[i])
	}
	return w
}

func loop(router int) netip.Addr { return netip.AddrFrom4([4]byte{10, 255, 0, byte(1 + router)}) }

// peer is the session over a link, from a router's side; link 0: multihop.
func peer(router, link int) Peer {
	if link == 0 {
		return Peer{Local: loop(router), Remote: loop(1 - router)}
	}
	at := func(r int) netip.Addr { return netip.AddrFrom4([4]byte{10, 254, byte(link), byte(r)}) }
	return Peer{Dev: fmt.Sprintf("e%d", link), Index: 10*(router+1) + link, Local: at(router), Remote: at(1 - router)}
}

func (e *end) receive(multihop bool, now event.Mono, each func(incoming)) error {
	var rest []arrival
	for _, a := range e.inbox {
		if a.at <= now && a.multihop == multihop {
			each(a.in)
		} else {
			rest = append(rest, a)
		}
	}
	e.inbox = rest
	return nil
}

func (e *end) send(out []outgoing) error {
	other := e.w.ends[1-e.number]
	for _, o := range out {
		p, err := Parse(o.data[:])
		if err != nil {
			e.w.t.Fatalf("a packet of our own is refused: %v", err)
		}
		e.sent = append(e.sent, p)
		if e.w.cut != nil && e.w.cut(e.number, p) {
			continue
		}
		link := 0
		if !o.peer.Multihop() {
			link = o.peer.Index % 10
		}
		at := e.w.now + event.Mono(e.w.delay)
		other.inbox = append(other.inbox, arrival{at, link == 0, incoming{
			at: at, from: o.peer.Local, to: o.peer.Remote, index: peer(other.number, link).Index, ttl: e.ttl, data: bytes.Clone(o.data[:]),
		}})
	}
	return nil
}

// lastOwn is what was last sent that is no answer.
func (e *end) lastOwn() Packet {
	i := len(e.sent) - 1
	for e.sent[i].Final {
		i--
	}
	return e.sent[i]
}

// set gives both routers sessions over links.
func (w *world) set(t Timers, links ...int) {
	for i, e := range w.ends {
		wanted := map[Peer]Timers{}
		for _, l := range links {
			wanted[peer(i, l)] = t
		}
		if err := e.group.Set(wanted, w.now); err != nil {
			w.t.Fatal(err)
		}
	}
}

// run lets time pass: each router wakes when it wants to, and in a hurry when
// something arrives.
func (w *world) run(d time.Duration) {
	end := w.now + event.Mono(d)
	for {
		next, who := never, 0
		for i, e := range w.ends {
			if w.asleep[i] {
				continue
			}
			at := e.group.Next()
			if e.group.Hurry() {
				for _, a := range e.inbox {
					at = min(at, a.at)
				}
			}
			if at < next {
				next, who = at, i
			}
		}
		if next > end {
			w.now = end
			return
		}
		w.now = max(w.now, next)
		told, err := w.ends[who].group.Step(w.now)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range told {
			w.told[who] = append(w.told[who], fmt.Sprintf("%v %s->%s", c.Peer, c.From, c.To))
		}
	}
}

func (w *world) states() (out [2][]State) {
	for i, e := range w.ends {
		for _, s := range e.group.Sessions() {
			out[i] = append(out[i], s.State)
		}
	}
	return out
}

func (w *world) want(state State) {
	w.t.Helper()
	for i, states := range w.states() {
		for _, s := range states {
			if s != state {
				w.t.Fatalf("router %d: sessions are %v, want all %v; told %q", i, states, state, w.told)
			}
		}
	}
}

var fast = Timers{Interval: 10 * ms, Multiplier: 3}

func TestComesUpAndSpeedsUp(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 0, 1, 2)
	w.run(1500 * ms)
	w.want(Up)
	for i, e := range w.ends {
		for _, s := range e.group.Sessions() {
			if s.Interval != 10*ms || s.Detection != 30*ms {
				t.Errorf("router %d, %v: interval %v, detection time %v", i, s.Peer, s.Interval, s.Detection)
			}
		}
		e.sent = nil
	}
	w.run(time.Second)
	for i, e := range w.ends {
		// A hundred a second and session, and up to a third more by jitter.
		if n := len(e.sent); n < 300 || n > 400 {
			t.Errorf("router %d sent %d packets a second on three sessions", i, n)
		}
		if p := e.sent[len(e.sent)-1]; p.Poll || p.Final {
			t.Errorf("router %d still polls: %+v", i, p)
		}
	}
	if d := w.ends[0].group.Discarded(); d != 0 {
		t.Errorf("%d packets discarded", d)
	}
}

func TestIsSlowUntilUp(t *testing.T) {
	w := newWorld(t)
	w.asleep[1] = true
	w.set(fast, 1)
	w.run(10 * time.Second)
	if n := len(w.ends[0].sent); n < 10 || n > 14 {
		t.Errorf("%d packets in 10 s to a peer that is not there", n)
	}
	for _, p := range w.ends[0].sent {
		if p.DesiredMinTx != time.Second || p.RequiredMinRx != 10*ms || p.Yours != 0 {
			t.Fatalf("it says %+v", p)
		}
	}
}

// TestDetectionTime: a peer that falls silent is missed after three intervals
// from its last packet, to the moment, though packets are read only now and then.
func TestDetectionTime(t *testing.T) {
	for name, links := range map[string][]int{"alone": {1}, "among others": {0, 1, 2, 3}} {
		w := newWorld(t)
		w.set(fast, links...)
		w.run(2 * time.Second)
		w.want(Up)
		var last event.Mono
		w.cut = func(from int, p Packet) bool { return from == 0 }
		cut := w.now
		for _, a := range w.ends[1].inbox {
			last = max(last, a.at)
		}
		for _, m := range w.ends[1].group.members {
			last = max(last, m.heard)
		}
		for len(w.told[1]) <= 2*len(links) && w.now < cut+event.Mono(time.Second) {
			w.run(ms)
		}
		s := w.ends[1].group.Sessions()[0]
		if s.State != Down || s.Diag != Expired {
			t.Fatalf("%s: the session is %v (%v)", name, s.State, s.Diag)
		}
		if took := s.Since.Sub(last); took < 29*ms || took > 30*ms {
			t.Errorf("%s: noticed %v after the last packet", name, took)
		}
		w.run(100 * ms)
		if s := w.ends[0].group.Sessions()[0]; s.State != Down || s.Diag != NeighborDown {
			t.Errorf("%s: the other end, which hears, is %v (%v)", name, s.State, s.Diag)
		}
	}
}

func TestComesBack(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 1)
	w.run(2 * time.Second)
	w.cut = func(int, Packet) bool { return true }
	w.run(5 * time.Second)
	w.want(Down)
	w.cut = nil
	w.run(3 * time.Second)
	w.want(Up)
	if n := w.ends[0].group.Sessions()[0].Downs; n != 1 {
		t.Errorf("went down %d times", n)
	}
}

// TestKeepsInStep: the sessions of a router send at the same moments, so that
// they cost one wake-up.
func TestKeepsInStep(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 1, 2)
	w.run(1300 * ms)
	w.set(fast, 1, 2, 3, 4, 5) // those that come later fall in
	w.run(4 * time.Second)
	w.want(Up)
	e := w.ends[0]
	e.sent = nil
	wakes := 0
	for last := event.Mono(0); wakes < 200; {
		n := e.group.Next()
		if n == last {
			t.Fatal("time stands still")
		}
		last = n
		w.run(n.Sub(w.now))
		wakes++
	}
	if n := len(e.sent); n < 5*199 {
		t.Errorf("%d packets in %d wake-ups of five sessions", n, wakes)
	}
}

func TestPollSequence(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 1)
	w.run(2 * time.Second)
	slower := Timers{Interval: 100 * ms, Multiplier: 5}
	w.cut = func(_ int, p Packet) bool { return p.Final } // no change is acknowledged
	w.set(slower, 1)
	w.run(time.Second)
	w.want(Up)
	for i, e := range w.ends {
		if s := e.group.Sessions()[0]; s.Interval != 100*ms && s.Interval != 10*ms {
			t.Errorf("router %d sends every %v", i, s.Interval)
		}
		if p := e.lastOwn(); !p.Poll {
			t.Errorf("router %d gave up polling: %+v", i, p)
		}
	}
	w.cut = nil
	w.run(time.Second)
	w.want(Up)
	for i, e := range w.ends {
		if s := e.group.Sessions()[0]; s.Interval != 100*ms || s.Detection != 500*ms {
			t.Errorf("router %d: interval %v, detection %v", i, s.Interval, s.Detection)
		}
		if p := e.sent[len(e.sent)-1]; p.Poll {
			t.Errorf("router %d still polls", i)
		}
	}
	if len(w.told[0]) != 2 {
		t.Errorf("the session went through %q", w.told[0])
	}
}

// TestOnPurpose: who ends a session says so, and the other end does not take
// the way for broken.
func TestOnPurpose(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 1)
	w.run(2 * time.Second)
	if err := w.ends[0].group.Set(nil, w.now); err != nil {
		t.Fatal(err)
	}
	w.run(15 * ms)
	if s := w.ends[1].group.Sessions()[0]; s.State != Down || s.Remote != AdminDown || s.Diag != NeighborDown || s.Downs != 0 {
		t.Errorf("the peer took it for %+v", s)
	}
}

// TestSuccessor: a process that is killed has a successor with other
// discriminators, and the session comes up again.
func TestSuccessor(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 1)
	w.run(2 * time.Second)
	w.ends[0].group = newGroup(w.ends[0])
	w.set(fast, 1)
	w.run(3 * time.Second)
	w.want(Up)
	if n := w.ends[1].group.Sessions()[0].Downs; n != 1 {
		t.Errorf("the peer noticed %d deaths", n)
	}
}

// TestStall: when the machine stood still nobody could send, and nobody is
// taken for dead; when the peer has died, that shows later by as long.
func TestStall(t *testing.T) {
	for name, dead := range map[string]bool{"both go on": false, "one does not": true} {
		w := newWorld(t)
		w.set(fast, 1, 2)
		w.run(2 * time.Second)
		before := len(w.told[1])
		from := [2]event.Mono{w.ends[0].group.Next(), w.ends[1].group.Next()}
		w.now += event.Mono(45 * ms)
		for i, e := range w.ends {
			e.group.Excuse(from[i], from[i], w.now)
		}
		w.asleep[0] = dead
		w.run(25 * ms)
		if n := len(w.told[1]) - before; n != 0 && !dead {
			t.Errorf("%s: %q", name, w.told[1][before:])
		}
		w.run(30 * ms)
		if n := len(w.told[1]) - before; (n > 0) != dead {
			t.Errorf("%s: %q", name, w.told[1][before:])
		}
	}
}

// TestDoubtHasAnEnd: on a machine on which all turns are late a peer that has died
// is missed all the same.
func TestDoubtHasAnEnd(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 1)
	w.run(2 * time.Second)
	g, dead := w.ends[1].group, w.now
	w.asleep[0] = true
	for g.Sessions()[0].State == Up {
		if w.now.Sub(dead) > time.Second {
			t.Fatal("not missed within a second")
		}
		ran, due := w.now, g.Next()
		w.now = due + event.Mono(10*ms)
		g.Excuse(ran, due, w.now)
		if _, err := g.Step(w.now); err != nil {
			t.Fatal(err)
		}
	}
	// A third of the time is excused for good, the rest in doubt for two detection
	// times more.
	if took := w.now.Sub(dead); took < 90*ms || took > 220*ms {
		t.Errorf("missed after %v", took)
	}
}

// TestNobodysPackets: what comes from elsewhere changes nothing.
func TestNobodysPackets(t *testing.T) {
	w := newWorld(t)
	w.set(fast, 0, 1)
	w.run(2 * time.Second)
	g := w.ends[0].group
	down := Packet{State: Down, Multiplier: 3, Mine: 4711, Yours: g.members[0].Session.mine}
	for name, change := range map[string]func(in *incoming, p *Packet){
		"by way of a router":        func(in *incoming, _ *Packet) { in.ttl = 254 },
		"by another link":           func(in *incoming, _ *Packet) { in.index = 12 },
		"of another address":        func(in *incoming, _ *Packet) { in.from = loop(1) },
		"to another address":        func(in *incoming, _ *Packet) { in.to = loop(0) },
		"for a session of nobody's": func(_ *incoming, p *Packet) { p.Yours = 1 },
		"of a stranger":             func(in *incoming, p *Packet) { p.Yours, in.from = 0, loop(3) },
	} {
		p, me := down, peer(0, 1)
		in := incoming{at: w.now, from: me.Remote, to: me.Local, index: me.Index, ttl: gtsm}
		change(&in, &p)
		in.data = p.Append(nil)
		bad := g.Discarded()
		g.take(false, in)
		if g.Discarded() != bad+1 {
			t.Errorf("a packet %s was taken", name)
		}
	}
	w.want(Up)
}

// TestWhatNobodyWaitsForIsRead: a neighbour's last word arrives where there is no
// session any more. In a hurry its arrival wakes the owner, for ever if it lies.
func TestWhatNobodyWaitsForIsRead(t *testing.T) {
	w := newWorld(t)
	w.set(Timers{Interval: 50 * ms, Multiplier: 3}, 0) // multihop only, and not up yet
	e := w.ends[0]
	if !e.group.Hurry() {
		t.Fatal("a session that is not up is in no hurry")
	}
	e.inbox = append(e.inbox, arrival{w.now, false, incoming{at: w.now, from: peer(1, 1).Local, to: peer(0, 1).Local, ttl: gtsm, data: make([]byte, packetSize)}})
	if _, err := e.group.Step(w.now); err != nil {
		t.Fatal(err)
	}
	for _, a := range e.inbox {
		if !a.multihop {
			t.Error("what arrived at the port of a kind without sessions still lies there")
		}
	}
	if e.group.Discarded() == 0 {
		t.Error("it was not counted")
	}
}
