package wanopt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/qmp"
)

const (
	// heldLimit is the downtime-limit (ms) while the VM is not to stop: QEMU stops
	// it by itself only where next to nothing is left. freeLimit is the longest
	// that QEMU takes, 2000 s: it stops the VM at its next look.
	heldLimit = 1
	// HeldLimit is the same for who sets it otherwise; see NewSmartStop.
	HeldLimit = heldLimit * time.Millisecond
	freeLimit = 2_000_000
	// lookEvery is how often QEMU is looked at where no event says that a round
	// has begun.
	lookEvery = 50 * time.Millisecond
	// qmpIn bounds one question to QEMU.
	qmpIn = 10 * time.Second
)

// SmartStop has a QEMU stop its VM when a Rule says so. It is prepared before the
// migration begins, and watches when it has.
type SmartStop struct {
	rule    Rule
	monitor *qmp.Client
	events  *qmp.Subscription
	limit   int64 // the user's downtime-limit, ms
}

// usualLimit is QEMU's own downtime-limit, ms.
const usualLimit = 300

// NewSmartStop is Prepare for who has readied QEMU already: its capability events
// is on, and its downtime-limit HeldLimit. limit is the user's, 0: QEMU's own, for
// the case that Watch fails. Forget ends it.
func NewSmartStop(m *qmp.Client, r Rule, limit time.Duration) *SmartStop {
	s := &SmartStop{rule: r.complete(), monitor: m, limit: limit.Milliseconds(), events: m.Subscribe("MIGRATION", "MIGRATION_PASS")}
	if s.limit == 0 {
		s.limit = usualLimit
	}
	return s
}

// Forget ends it, and leaves QEMU as it is.
func (s *SmartStop) Forget() { s.events.Close() }

// capability of QEMU's migration.
type capability struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

// Prepare has QEMU not stop the VM by itself in the next migration.
func Prepare(ctx context.Context, m *qmp.Client, r Rule) (*SmartStop, error) {
	// It tells when a round begins.
	if err := m.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{"events", true}}}, nil); err != nil {
		return nil, fmt.Errorf("smart stop: %w", err)
	}
	var p struct {
		Limit int64 `json:"downtime-limit"`
	}
	if err := m.Execute(ctx, "query-migrate-parameters", nil, &p); err != nil {
		return nil, fmt.Errorf("smart stop: %w", err)
	}
	if p.Limit <= heldLimit {
		p.Limit = usualLimit // what is there is ours, of a time when we were killed
	}
	s := NewSmartStop(m, r, time.Duration(p.Limit)*time.Millisecond)
	if err := s.hold(ctx, heldLimit); err != nil {
		s.Forget()
		return nil, err
	}
	return s, nil
}

// Odd tells, of a migration that has begun, what of QEMU's settings costs the pair
// what it is there for, in words for a user. A QEMU that does not answer has
// nothing to say here.
func (s *SmartStop) Odd(ctx context.Context) (odd []string) {
	ctx, cancel := context.WithTimeout(ctx, qmpIn)
	defer cancel()
	var all []capability
	if err := s.monitor.Execute(ctx, "query-migrate-capabilities", nil, &all); err != nil {
		return nil
	}
	on := map[string]bool{}
	for _, c := range all {
		on[c.Capability] = c.State
	}
	for _, name := range []string{"multifd", "compress", "xbzrle", "postcopy-preempt", "x-ignore-shared", "mapped-ram"} {
		if on[name] {
			odd = append(odd, fmt.Sprintf("QEMU's capability %s is on: pages that it brings into another form are not recognised", name))
		}
	}
	if !on["return-path"] {
		odd = append(odd, "QEMU's capability return-path is off: the source takes for done what the pair has taken, before the destination has it")
	}
	return odd
}

func (s *SmartStop) hold(ctx context.Context, limit int64) error {
	ctx, cancel := context.WithTimeout(ctx, qmpIn)
	defer cancel()
	if err := s.monitor.Execute(ctx, "migrate-set-parameters", map[string]any{"downtime-limit": limit}, nil); err != nil {
		return fmt.Errorf("smart stop: %w", err)
	}
	return nil
}

// Close gives QEMU the user's downtime-limit again. The monitor stays open.
func (s *SmartStop) Close() error {
	s.events.Close()
	if s.monitor.Err() != nil {
		return nil // there is nobody to give it to
	}
	return s.hold(context.Background(), s.limit)
}

// progress is what query-migrate says.
type progress struct {
	Status string `json:"status"`
	RAM    struct {
		Remaining int64 `json:"remaining"`
		Rounds    int64 `json:"dirty-sync-count"`
		Normal    int64 `json:"normal"`
		Duplicate int64 `json:"duplicate"`
		PageSize  int64 `json:"page-size"`
	} `json:"ram"`
}

// over says that there is nothing to decide any more.
func (p progress) over() bool {
	switch p.Status {
	case "", "none", "setup", "active", "wait-unplug":
		return false
	}
	return true
}

// Watch watches a migration until it ends, QEMU stops the VM, or ctx ends. An
// error does not hurt the migration: QEMU has the user's downtime-limit again.
func (s *SmartStop) Watch(ctx context.Context) (*StopReport, error) {
	rep := &StopReport{}
	st := newStopper(s.rule)
	err := s.watch(ctx, st, rep)
	rep.Rounds = st.rounds
	if err != nil && ctx.Err() == nil {
		err = errors.Join(fmt.Errorf("smart stop: %w; QEMU decides by itself now", err), s.hold(ctx, s.limit))
	}
	return rep, err
}

func (s *SmartStop) watch(ctx context.Context, st *stopper, rep *StopReport) error {
	for {
		var p progress
		asking, cancel := context.WithTimeout(ctx, qmpIn)
		err := s.monitor.Execute(asking, "query-migrate", nil, &p)
		cancel()
		if ctx.Err() != nil || err == nil && p.over() {
			return nil
		}
		if err != nil {
			return err
		}
		if p.RAM.Rounds > 0 {
			page := max(p.RAM.PageSize, 1)
			l := look{at: time.Duration(event.Now()), round: p.RAM.Rounds, remaining: p.RAM.Remaining, sent: (p.RAM.Normal + p.RAM.Duplicate) * page}
			if why := st.see(l); why != "" {
				rep.Why, rep.At, rep.Bytes = why, l.at-st.first, l.remaining
				return s.hold(ctx, freeLimit)
			}
		}
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
}

// wait waits until a round may have begun.
func (s *SmartStop) wait(ctx context.Context) error {
	some, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	if _, err := s.events.Next(some); err != nil && some.Err() == nil {
		return err
	}
	return nil
}

// ServeSmart is Serve with a QEMU that stops its VM when the rule says so. m is a
// monitor of that QEMU's; it stays open.
func (n Near) ServeSmart(ctx context.Context, l net.Listener, m *qmp.Client, r Rule) (*Stats, error) {
	return n.serveSmart(ctx, l, m, r, func() {})
}

// serveSmart tells when it is prepared.
func (n Near) serveSmart(ctx context.Context, l net.Listener, m *qmp.Client, r Rule, prepared func()) (*Stats, error) {
	smart, err := Prepare(ctx, m, r)
	if err != nil {
		return nil, err
	}
	prepared()
	begun := make(chan struct{})
	n.Begun = func() { close(begun) }
	watching, stop := context.WithCancel(ctx)
	watched := make(chan *StopReport, 1)
	go func() {
		select {
		case <-begun:
		case <-watching.Done():
			watched <- nil
			return
		}
		for _, what := range smart.Odd(watching) {
			if n.Warn != nil {
				n.Warn(what)
			}
		}
		rep, err := smart.Watch(watching)
		if err != nil && n.Warn != nil {
			n.Warn(err.Error())
		}
		watched <- rep
	}()
	st, err := n.Serve(ctx, l)
	stop()
	if rep := <-watched; st != nil {
		st.Stop = rep
	}
	if closed := smart.Close(); closed != nil && err == nil && n.Warn != nil {
		n.Warn(closed.Error())
	}
	return st, err
}
