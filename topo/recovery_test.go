package topo

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRecoveryOfAFile(t *testing.T) {
	r := samples()["recovery.vpclab.yml"].Recovery
	want := &Recovery{
		Detect: []string{DetectCarrier, DetectBFD, DetectMultihop}, Interval: Duration(10 * time.Millisecond),
		MultihopInterval: Duration(50 * time.Millisecond), Multiplier: 3, Local: LocalBackup,
		Reroute: true, Hold: Duration(3 * time.Second),
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if p := samples()["ten-lines.vpclab.yml"]; p.Recovery != nil {
		t.Errorf("a file without the key recovers: %+v", p.Recovery)
	}
}

func TestWhatRecoveryMeans(t *testing.T) {
	for name, c := range map[string]struct {
		recovery                           *Recovery
		reflexes, repairs, reroutes, share bool
		multihop                           time.Duration
	}{
		"no block":                      {recovery: nil},
		"told by BGP alone":             {recovery: &Recovery{Detect: []string{DetectNone}, Local: LocalBackup, Reroute: true, PIC: true}, reroutes: true, share: true},
		"carriers and nothing done":     {recovery: &Recovery{Detect: []string{DetectCarrier}, Local: LocalNone}, reflexes: true},
		"multihop waits for repair":     {recovery: &Recovery{Detect: []string{DetectMultihop}, Local: LocalBackup, Interval: Duration(10 * time.Millisecond)}, reflexes: true, repairs: true, multihop: 30 * time.Millisecond},
		"multihop at a time of its own": {recovery: &Recovery{Detect: []string{DetectBFD}, Interval: Duration(time.Second), MultihopInterval: Duration(time.Minute)}, reflexes: true, multihop: time.Minute},
	} {
		r := c.recovery
		if r.Reflexes() != c.reflexes || r.Repairs() != c.repairs || r.Reroutes() != c.reroutes || r.Shares() != c.share {
			t.Errorf("%s: reflexes %t, repairs %t, reroutes %t, shares %t", name, r.Reflexes(), r.Repairs(), r.Reroutes(), r.Shares())
		}
		if r != nil && r.Multihop() != c.multihop {
			t.Errorf("%s: multihop every %s, want %s", name, r.Multihop(), c.multihop)
		}
	}
}

func TestWithRecovery(t *testing.T) {
	plan := samples()["recovery.vpclab.yml"]
	mine := &Recovery{Detect: []string{DetectBFD}}
	q := plan.WithRecovery(mine)
	mine.Detect[0] = DetectNone
	if !q.Recovery.Detects(DetectBFD) || q.Recovery.Detects(DetectCarrier) {
		t.Errorf("detects by %v", q.Recovery.Detect)
	}
	if !plan.Recovery.Detects(DetectCarrier) {
		t.Error("the receiver changed")
	}
	if q = q.WithRecovery(nil); q.Recovery != nil {
		t.Errorf("still %+v", q.Recovery)
	}
	if diff := cmp.Diff(plan, q.WithRecovery(plan.Recovery), cmpAddrs); diff != "" {
		t.Errorf("there and back is not the same: %s", diff)
	}
}
