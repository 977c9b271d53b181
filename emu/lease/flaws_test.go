package lease

import (
	"testing"
	"time"
)

// flaws are ways to get this wrong, each with what has to go wrong besides for it
// to show.
var flaws = []struct {
	flaw
	hold int
	left budget
	from func() model
}{
	{flaw{
		name:    "no margin for clocks that run at different rates",
		before:  func(h *Holder, _ *Message) { h.guard = h.term },
		witness: func(w *Witness, _ *Message) { w.guard = time.Duration(modelConfig.Term) },
	}, 0, budget{rates: 1}, paired},
	{flaw{
		name:    "a witness that does not wait for its lease to end",
		witness: func(w *Witness, _ *Message) { w.until = base },
	}, 0, budget{}, paired},
	{flaw{
		name:   "a standby that does not wait for its promise to end",
		before: func(h *Holder, _ *Message) { h.promise = base },
	}, 0, budget{}, paired},
	{flaw{
		name:    "a witness that forgets who is stale",
		witness: func(w *Witness, _ *Message) { w.record.InSync = true },
	}, 0, budget{changes: 1}, unprotected},
	{flaw{
		name: "a witness that writes its record down later",
		lazy: true,
	}, 0, budget{crashes: [3]int8{0, 0, 1}}, paired},
	{flaw{
		name:    "a witness that counts no leases that it gave before it started",
		restart: func(w *Witness) { w.until = base },
	}, 0, budget{crashes: [3]int8{0, 0, 1}}, paired},
	{flaw{
		name:  "a standby that counts no promises that it gave before it started",
		begin: func(h *Holder) { h.promise, h.before = base, base },
	}, 0, budget{crashes: [3]int8{0, 1, 0}}, paired},
	{flaw{
		name:  "a host that promises before it knows whose the VM is",
		begin: func(h *Holder) { h.met = true; h.record = Record{Gen: 1, Holder: h.me.Other()} },
	}, 0, budget{crashes: [3]int8{0, 1, 0}}, cutOff},
	{flaw{
		name:   "an active that does not think of the Sync that is still under way",
		before: func(h *Holder, _ *Message) { h.doubt = 0 },
	}, 1, budget{changes: 2}, complete},
	{flaw{
		name: "a hand-over that was taken back, and counts all the same",
		before: func(h *Holder, msg *Message) {
			if msg != nil && msg.Kind == Handed {
				h.beat, h.handed = stamp{}, stamp{}
			}
		},
	}, 1, budget{planned: 1}, paired},
	{flaw{
		name:   "an active that goes on after a hand-over without a new generation",
		before: func(h *Holder, _ *Message) { h.claim = false },
	}, 1, budget{planned: 1}, paired},
}

// TestExplorationFindsFlaws: a test that cannot fail proves nothing.
func TestExplorationFindsFlaws(t *testing.T) {
	for _, f := range flaws {
		t.Run(f.name, func(t *testing.T) {
			e := explorer{world: world{flaw: &f.flaw, hold: f.hold}}
			o := e.explore(begins(f.left, f.from()), 1000000, time.Minute)
			if o.err == nil {
				t.Fatalf("not found: %v", o)
			}
			t.Logf("found after %v: %v", o, o.err)
		})
	}
}
