package bfd

import (
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// slow is how often a session that is not up sends at most (RFC 5880 section
// 6.8.3).
const slow = time.Second

// Timers are what this end of a session wants.
type Timers struct {
	// Interval is how often it sends, and how often it wants to hear from its
	// peer; a peer that wants less often is obeyed.
	Interval time.Duration
	// Multiplier is how many of its packets the peer is to miss before it takes
	// the session for down.
	Multiplier uint8
}

// Session is one end of a session in asynchronous mode, without clock and
// network: it is told what arrived and what time it is, and says what is to be
// sent and when it wants to be asked next. The zero Session is of no use; see
// NewSession.
type Session struct {
	state, remote State
	diag          Diag
	timers        Timers

	mine, yours uint32 // discriminators; yours 0: not known
	// What packets say, and what is gone by: the two differ while the peer has
	// not acknowledged a change (a Poll Sequence, section 6.8.3).
	desired, required     time.Duration
	desiredNow, expectNow time.Duration

	polling, again bool // again: there was another change meanwhile
	final          bool // the peer polls and waits for an answer

	remoteMultiplier uint8
	remoteDesired    time.Duration // how often the peer sends
	remoteRequired   time.Duration // how often it wants packets

	sent, due event.Mono // the last periodic packet, and the next
	heard     event.Mono // the last packet of the peer's
	excused   time.Duration
	stalled   [2]event.Mono // what was excused last
	doubted   time.Duration
}

// Change is what happened to a session's state.
type Change struct {
	From, To State
	Diag     Diag
	// Admin says that the peer took the session down on purpose: the path to it
	// has not failed (section 6.8.16).
	Admin bool
}

// NewSession makes a session that is down and will send at once. discriminator
// names it at this end: it is not 0, and no other session's.
func NewSession(t Timers, discriminator uint32, now event.Mono) *Session {
	s := &Session{state: Down, remote: Down, mine: discriminator, timers: t, due: now, remoteRequired: time.Microsecond}
	s.desired, s.required = max(slow, t.Interval), t.Interval
	s.desiredNow, s.expectNow = s.desired, s.required
	return s
}

// State is the session's, and Diag why it is in it.
func (s *Session) State() State { return s.state }

// Diag says why the session last changed.
func (s *Session) Diag() Diag { return s.diag }

// Detection is how long the peer may be silent (section 6.8.4); 0: it has not
// been heard.
func (s *Session) Detection() time.Duration {
	return time.Duration(s.remoteMultiplier) * max(s.expectNow, s.remoteDesired)
}

// Interval is how often this end sends, before jitter; 0: the peer wants no
// packets.
func (s *Session) Interval() time.Duration {
	if s.remoteRequired == 0 {
		return 0
	}
	return max(s.desiredNow, s.remoteRequired)
}

// Due is when the next packet is to be sent; never, where the peer wants none.
func (s *Session) Due() event.Mono {
	switch {
	case s.final:
		return 0
	case s.remoteRequired == 0:
		return never
	}
	return s.due
}

// never is later than all times.
const never event.Mono = 1<<63 - 1

// Deadline is when the session goes down if nothing is heard until then; never
// where there is nothing to lose.
func (s *Session) Deadline() event.Mono {
	if s.yours == 0 {
		return never
	}
	d := s.Detection()
	return s.heard + event.Mono(d+s.excused+min(s.doubted, mostDoubt*d))
}

// mostDoubt is how many detection times a deadline is put off at most because a
// machine that is always late says little of anybody's silence.
const mostDoubt = 2

// Excuse puts the deadline off because this machine was busy or stood still: it
// ran at one time, was to run again when something was due, and did so only now.
// Where the peer runs on the same machine, it could not send either. The time
// since it was due does not count at all. Where that is long, the time before is
// in doubt too, as nobody knows since when nothing ran; but doubt has an end.
func (s *Session) Excuse(ran, due, now event.Mono) {
	s.excused += now.Sub(max(due, s.heard))
	s.stalled = [2]event.Mono{due, now}
	if now.Sub(due) > due.Sub(ran)/2 {
		s.doubted += max(0, due.Sub(max(ran, s.heard)))
	}
}

// Receive takes a packet of this session's that arrived at a time: it was found
// by its discriminator, or by where it came from (section 6.8.6).
func (s *Session) Receive(at event.Mono, p Packet) (c Change, changed bool) {
	s.yours, s.remote = p.Mine, p.State
	s.remoteRequired, s.remoteMultiplier, s.remoteDesired = p.RequiredMinRx, p.Multiplier, p.DesiredMinTx
	s.heard = max(s.heard, at)
	s.excused, s.doubted = max(0, s.stalled[1].Sub(max(s.heard, s.stalled[0]))), 0
	if p.Final && s.polling {
		s.acknowledged()
	}
	s.hasten(at)
	if s.state == AdminDown {
		return Change{}, false
	}
	s.final = s.final || p.Poll
	switch {
	case p.State == AdminDown && s.state != Down:
		c, changed = s.become(Down, NeighborDown, at), true
		c.Admin = true
	case p.State == AdminDown:
	case s.state == Down && p.State == Down:
		c, changed = s.become(Init, NoDiag, at), true
	case s.state == Down && p.State == Init, s.state == Init && (p.State == Init || p.State == Up):
		c, changed = s.become(Up, NoDiag, at), true
	case s.state == Up && p.State == Down:
		c, changed = s.become(Down, NeighborDown, at), true
	}
	return c, changed
}

// Expire is to be called when the Deadline has passed and nothing more is there
// to be received.
func (s *Session) Expire(now event.Mono) (c Change, changed bool) {
	if now < s.Deadline() {
		return Change{}, false
	}
	s.yours = 0 // the peer may have forgotten us: it is found by its address again
	if s.state == Down || s.state == AdminDown {
		return Change{}, false
	}
	return s.become(Down, Expired, now), true
}

// become changes the state. The peer is told at once, and how often this end
// sends follows: slowly until it is up (section 6.8.3).
func (s *Session) become(to State, why Diag, now event.Mono) Change {
	c := Change{From: s.state, To: to, Diag: why}
	s.state, s.diag = to, why
	s.retime(now)
	s.due = now
	return c
}

// SetTimers changes what this end wants; a peer that is up is asked to
// acknowledge it.
func (s *Session) SetTimers(t Timers, now event.Mono) {
	s.timers = t
	s.retime(now)
	s.hasten(now)
}

// SetAdmin takes the session down on purpose, or lets it come up again. The
// peer hears of it as long as this end is asked for packets.
func (s *Session) SetAdmin(down bool, now event.Mono) (c Change, changed bool) {
	switch {
	case down && s.state != AdminDown:
		return s.become(AdminDown, AdminDownDiag, now), true
	case !down && s.state == AdminDown:
		return s.become(Down, NoDiag, now), true
	}
	return Change{}, false
}

// retime makes the intervals follow from timers and state.
func (s *Session) retime(now event.Mono) {
	desired := s.timers.Interval
	if s.state != Up {
		desired = max(slow, desired)
		s.polling, s.again = false, false
	}
	if desired == s.desired && s.timers.Interval == s.required {
		return
	}
	s.desired, s.required = desired, s.timers.Interval
	if s.state != Up {
		s.desiredNow, s.expectNow = s.desired, s.required
		return
	}
	// Sending more often than was said and listening longer harms nobody; the
	// other way round waits until the peer knows.
	s.desiredNow, s.expectNow = min(s.desiredNow, s.desired), max(s.expectNow, s.required)
	s.polling, s.again = true, s.polling
	s.due = now
}

// acknowledged ends a Poll Sequence.
func (s *Session) acknowledged() {
	if s.again {
		s.again = false // this answer may be to what was said before
		return
	}
	s.polling = false
	s.desiredNow, s.expectNow = s.desired, s.required
}

// hasten brings the next packet forward where the interval is shorter now.
func (s *Session) hasten(now event.Mono) {
	if latest := s.sent + event.Mono(s.Interval()); s.due > latest {
		s.due = max(latest, now)
	}
}

// May says whether the next packet may go already: it has waited as long as
// the shortest interval.
func (s *Session) May(now event.Mono) bool {
	return now >= s.Due() || s.remoteRequired != 0 && now >= s.sent+event.Mono(float64(s.Interval())*least)
}

// Bounds of the random part of intervals, as shares of them.
const (
	least = 0.75
	most  = 1.0
	early = 0.9 // most, where one packet that is a little late would be one too many
)

// Send is the packet to be sent now. share, from 0 up to 1, is the random part
// of the time until the next one: intervals are shortened by up to a quarter so
// that systems do not fall into step (section 6.8.7).
func (s *Session) Send(now event.Mono, share float64) Packet {
	p := Packet{
		Diag: s.diag, State: s.state, Poll: s.polling && !s.final, Final: s.final, Multiplier: s.timers.Multiplier,
		Mine: s.mine, Yours: s.yours, DesiredMinTx: s.desired, RequiredMinRx: s.required,
	}
	answer := s.final
	s.final = false
	if answer && now < s.due {
		return p // beside the periodic ones
	}
	top := most
	if s.timers.Multiplier == 1 {
		top = early
	}
	s.sent = now
	s.due = now + event.Mono(float64(s.Interval())*(top-share*(top-least)))
	return p
}
