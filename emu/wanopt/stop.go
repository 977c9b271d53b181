package wanopt

import (
	"fmt"
	"slices"
	"time"
)

// Rule says when the VM is to stop: it is CloudNet's Smart Stop (Wood et al., ToN
// 2015, section IV-B3) over the rounds of QEMU's pre-copy, with a goal and an end.
type Rule struct {
	// Goal is a pause that is short enough: when what is left to send would take
	// no longer, the VM is stopped. Default 20 ms.
	Goal time.Duration
	// Window is how many rounds are looked back at: once a round has dirtied more
	// pages than it sent, the VM is stopped when less is to be sent than at the
	// beginning of any of them. Default 3.
	Window int
	// Rounds is after how many of them the VM is stopped as soon as no more is
	// to be sent than ever before, give or take a tenth; and a third more later
	// at any rate. Default 10: CloudNet's own stops came after 7 to 10 (Table I).
	Rounds int
}

func (r Rule) complete() Rule {
	if r.Goal <= 0 {
		r.Goal = 20 * time.Millisecond
	}
	if r.Window <= 0 {
		r.Window = 3
	}
	if r.Rounds <= 0 {
		r.Rounds = 10
	}
	return r
}

// Why a VM was stopped.
const (
	WhyGoal    = "goal"    // the pause will be short enough
	WhyMinimum = "minimum" // a local minimum
	WhyRounds  = "rounds"  // it does not converge
)

// look is what is known of a migration at one moment.
type look struct {
	at        time.Duration // by any clock
	round     int64         // of QEMU's, from 1
	remaining int64         // bytes of pages that are known to be dirty
	sent      int64         // bytes of pages sent in all
}

// Round is one round of QEMU's pre-copy as it began.
type Round struct {
	Round int64
	At    time.Duration // since the first look
	Bytes int64         // of pages that were to be sent
	Sent  int64         // bytes of pages that the round before it sent
}

// stopper decides when the VM is to stop. It has no clock.
type stopper struct {
	rule   Rule
	rounds []Round
	first  time.Duration // look
	began  look          // the first one of the round
	last   look
	lows   []int64
	turned bool
	best   int64
}

func newStopper(r Rule) *stopper { return &stopper{rule: r.complete()} }

// see takes a look, and says why the VM is to be stopped now; "": it is not.
func (s *stopper) see(l look) (why string) {
	if l.round <= s.last.round { // in the midst of one
		s.last = l
		return ""
	}
	if len(s.rounds) == 0 {
		s.first, s.began, s.last, s.best = l.at, l, l, l.remaining
		s.rounds = append(s.rounds, Round{Round: l.round, Bytes: l.remaining})
		return ""
	}
	sent, took := l.sent-s.began.sent, l.at-s.began.at
	s.began, s.last = l, l
	s.rounds = append(s.rounds, Round{Round: l.round, At: l.at - s.first, Bytes: l.remaining, Sent: sent})
	low := s.best
	s.best = min(s.best, l.remaining)
	switch n := int(l.round-s.rounds[0].Round) + 1; {
	case sent > 0 && float64(l.remaining)/float64(sent)*took.Seconds() <= s.rule.Goal.Seconds():
		return WhyGoal
	case s.minimum(sent, l.remaining):
		return WhyMinimum
	case n > s.rule.Rounds && l.remaining <= low+low/10, n > s.rule.Rounds+s.rule.Rounds/3:
		return WhyRounds
	}
	return ""
}

// minimum is CloudNet's rule. The window has to be full: what came before the
// curve turned was falling anyway.
func (s *stopper) minimum(sent, toSend int64) bool {
	if s.turned {
		if len(s.lows) == s.rule.Window && toSend < slices.Min(s.lows) {
			return true
		}
		if s.lows = append(s.lows, toSend); len(s.lows) > s.rule.Window {
			s.lows = s.lows[1:]
		}
	}
	if toSend > sent {
		s.turned = true
	}
	return false
}

// StopReport says what Smart Stop saw and did.
type StopReport struct {
	Rounds []Round
	Why    string // "": QEMU stopped the VM by itself, or not at all
	// At is when it was, since the first look, and Bytes what was to be sent then.
	At    time.Duration
	Bytes int64
}

func (r *StopReport) String() string {
	if r.Why == "" {
		return fmt.Sprintf("QEMU ended by itself after %d rounds", len(r.Rounds))
	}
	return fmt.Sprintf("stopped after %d rounds with %d kB to send (%s)", len(r.Rounds), r.Bytes/1000, r.Why)
}
