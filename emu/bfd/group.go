package bfd

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// Peer is the other end of a session: a neighbour on a link, or, where Dev is
// "", a router with others between.
type Peer struct {
	Dev           string
	Index         int // of Dev
	Local, Remote netip.Addr
}

// Multihop says that there may be routers between (RFC 5883).
func (p Peer) Multihop() bool { return p.Dev == "" }

func (p Peer) String() string {
	if p.Multihop() {
		return fmt.Sprintf("%v (multihop)", p.Remote)
	}
	return fmt.Sprintf("%v dev %s", p.Remote, p.Dev)
}

// Told is a Change, and whose.
type Told struct {
	Change
	At   event.Mono
	Peer Peer
}

// Info is a session for people.
type Info struct {
	Peer
	State     State
	Remote    State // as the peer last said
	Diag      Diag
	Since     event.Mono
	Interval  time.Duration // between packets that this end sends, before jitter
	Detection time.Duration // 0: the peer has not been heard
	Mine      uint32
	Yours     uint32 // 0: not known
	Sent      uint64 // packets
	Received  uint64
	Downs     int // how often it went down by itself
}

// Group is all sessions of a router. All of them are served at the same
// moments: packets are read, by one system call a port, when some are sent,
// and all that may be sent then goes by one more. So what a router spends is
// nearly the same for one session as for ten. Packets carry the time at which
// the kernel had them, so nothing is lost by reading them late.
//
// It has no goroutine and no timer; who owns it calls Step when Next has come.
type Group struct {
	wire wire
	next uint32 // discriminator

	members []*member
	mine    map[uint32]*member
	from    map[origin]*member
	changes []Told
	out     []outgoing
	now     event.Mono
	bad     uint64
}

// member is a session and whose.
type member struct {
	*Session
	peer           Peer
	since          event.Mono
	sent, received uint64
	downs          int
}

// origin is what a session is found by while its discriminator is not known to
// the peer: the link, 0 for any, and the address.
type origin struct {
	index int
	addr  netip.Addr
}

func (p Peer) origin() origin {
	if p.Multihop() {
		return origin{0, p.Remote}
	}
	return origin{p.Index, p.Remote}
}

// wire is what carries packets: sockets, or a stand-in of the tests.
type wire interface {
	// receive hands out what has arrived at a kind of sessions since it was last
	// called. at is no later than now.
	receive(multihop bool, now event.Mono, each func(in incoming)) error
	// send sends packets; a link that is down takes none, and that is no error.
	send(out []outgoing) error
}

type incoming struct {
	at   event.Mono
	from netip.Addr
	to   netip.Addr
	// index is of the link that it came by; ttl is what it came with.
	index, ttl int
	data       []byte // until the next
}

type outgoing struct {
	peer *Peer
	data [packetSize]byte
}

func newGroup(w wire) *Group {
	// Random, so that packets to a predecessor are not taken for our own.
	return &Group{wire: w, next: rand.Uint32(), mine: map[uint32]*member{}, from: map[origin]*member{}}
}

// gtsm is the time to live that a packet of a neighbour has (RFC 5082): no
// router may have forwarded it.
const gtsm = 255

// Set has the group hold these sessions, with these timers. Those that are there
// already go on; those that are no longer wanted say so to their peers.
func (g *Group) Set(wanted map[Peer]Timers, now event.Mono) error {
	g.out = g.out[:0]
	g.members = slices.DeleteFunc(g.members, func(m *member) bool {
		t, stays := wanted[m.peer]
		if stays {
			m.SetTimers(t, now)
			return false
		}
		m.SetAdmin(true, now)
		g.queue(m, now, 0)
		delete(g.mine, m.Session.mine)
		delete(g.from, m.peer.origin())
		return true
	})
	for p, t := range wanted {
		if g.from[p.origin()] == nil {
			g.add(p, t, now)
		}
	}
	slices.SortFunc(g.members, func(a, b *member) int {
		return cmp.Or(rank(a.peer)-rank(b.peer), cmp.Compare(a.peer.Dev, b.peer.Dev), a.peer.Remote.Compare(b.peer.Remote))
	})
	return g.flush()
}

// rank puts neighbours before routers further away.
func rank(p Peer) int {
	if p.Multihop() {
		return 1
	}
	return 0
}

func (g *Group) add(p Peer, t Timers, now event.Mono) {
	for g.next++; g.next == 0 || g.mine[g.next] != nil; {
		g.next++
	}
	m := &member{Session: NewSession(t, g.next, now), peer: p, since: now}
	g.members = append(g.members, m)
	g.mine[g.next], g.from[p.origin()] = m, m
}

// Next is when Step is to be called.
func (g *Group) Next() event.Mono {
	next := never
	for _, m := range g.members {
		next = min(next, m.Due(), m.Deadline())
	}
	return next
}

// Hurry says that something that may arrive before Next should be seen at once:
// sessions that come up, or that negotiate. All others are as well served when
// packets are sent.
func (g *Group) Hurry() bool {
	return slices.ContainsFunc(g.members, func(m *member) bool { return m.state != Up || m.polling })
}

// Excuse puts off all deadlines, as Session.Excuse says.
func (g *Group) Excuse(ran, due, now event.Mono) {
	for _, m := range g.members {
		m.Excuse(ran, due, now)
	}
}

// Step takes what has arrived, sends what is due and says which sessions
// changed. The list is good until the next call.
func (g *Group) Step(now event.Mono) ([]Told, error) {
	g.now, g.changes, g.out = now, g.changes[:0], g.out[:0]
	hurry := g.Hurry()
	for _, multihop := range []bool{false, true} {
		// In a hurry its owner is woken by whatever arrives, also at the port of a
		// kind of which there is no session any more: what nobody takes from there
		// would wake it again and again.
		if !hurry && !slices.ContainsFunc(g.members, func(m *member) bool {
			return m.peer.Multihop() == multihop && (m.May(now) || now >= m.Deadline())
		}) {
			continue // nobody is waiting
		}
		if err := g.wire.receive(multihop, now, func(in incoming) { g.take(multihop, in) }); err != nil {
			return nil, err
		}
	}
	due := false
	for _, m := range g.members {
		if c, changed := m.Expire(now); changed {
			g.tell(m, now, c)
		}
		due = due || now >= m.Due()
	}
	if !due {
		return g.changes, nil
	}
	share := rand.Float64() // one for all, so that they stay together
	for _, m := range g.members {
		if m.May(now) {
			g.queue(m, now, share)
		}
	}
	return g.changes, g.flush()
}

// take finds whose a packet is (RFC 5880 section 6.8.6, RFC 5881 section 4 and
// RFC 5883 section 5).
func (g *Group) take(multihop bool, in incoming) {
	p, err := Parse(in.data)
	if err != nil || !multihop && in.ttl != gtsm {
		g.bad++
		return
	}
	m := g.mine[p.Yours]
	if p.Yours == 0 {
		o := origin{in.index, in.from}
		if multihop {
			o.index = 0
		}
		m = g.from[o]
	}
	// A discriminator that was guessed helps nobody: the packet has to come from
	// where the session's peer is.
	if m == nil || m.peer.Multihop() != multihop || m.peer.Remote != in.from || m.peer.Local != in.to || !multihop && m.peer.Index != in.index {
		g.bad++
		return
	}
	m.received++
	if c, changed := m.Receive(in.at, p); changed {
		g.tell(m, g.now, c)
	}
}

func (g *Group) tell(m *member, at event.Mono, c Change) {
	m.since = at
	if c.From == Up && c.To == Down && !c.Admin {
		m.downs++
	}
	g.changes = append(g.changes, Told{c, at, m.peer})
}

func (g *Group) queue(m *member, now event.Mono, share float64) {
	o := outgoing{peer: &m.peer}
	m.Send(now, share).Append(o.data[:0])
	g.out = append(g.out, o)
	m.sent++
}

func (g *Group) flush() error {
	if len(g.out) == 0 {
		return nil
	}
	return g.wire.send(g.out)
}

// Sessions lists all of them: links first.
func (g *Group) Sessions() []Info {
	out := make([]Info, 0, len(g.members))
	for _, m := range g.members {
		out = append(out, Info{
			Peer: m.peer, State: m.state, Remote: m.remote, Diag: m.diag, Since: m.since, Interval: m.Interval(), Detection: m.Detection(),
			Mine: m.Session.mine, Yours: m.yours, Sent: m.sent, Received: m.received, Downs: m.downs,
		})
	}
	return out
}

// Discarded counts packets that were nobody's.
func (g *Group) Discarded() uint64 { return g.bad }
