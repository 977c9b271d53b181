package topo

import (
	"fmt"
	"slices"
	"time"
)

// Recovery is what the backbone does by itself when a link or a router of it
// fails. Each part can be had without the others. Routers that run FRR take no
// part: their daemons have their own ways.
type Recovery struct {
	// How routers find out that a link or a router is gone. carrier: the link's own end says so; bfd: neighbours send each other small packets and miss them (RFC 5880, RFC 5881); bfd-multihop: PEs likewise across the backbone (RFC 5883); none: only BGP's hold timer runs out.
	Detect []string `yaml:"detect" jsonschema:"required,minItems=1,enum=none,enum=carrier,enum=bfd,enum=bfd-multihop" example:"[carrier, bfd]"`
	// bfd: how often neighbours send, at least 10ms.
	Interval Duration `yaml:"interval,omitempty" jsonschema:"default=10ms" example:"50ms"`
	// bfd-multihop: how often PEs send, at least 10ms. Without it: three times interval, so that a repair next to the failure comes first.
	MultihopInterval Duration `yaml:"multihop-interval,omitempty" example:"100ms"`
	// bfd: packets in a row that are missed until a neighbour is taken for gone.
	Multiplier int `yaml:"multiplier,omitempty" jsonschema:"minimum=1,maximum=255,default=3" example:"5"`
	// What the router next to the failure does at once. backup-lsp: it sends packets by label switched paths around the failure, which it has been given beforehand (facility backup, RFC 4090); none: nothing.
	Local string `yaml:"local,omitempty" jsonschema:"enum=none,enum=backup-lsp,default=backup-lsp" example:"none"`
	// Whether the controller, when it is told, computes all paths anew without what failed.
	Reroute bool `yaml:"reroute" jsonschema:"default=true" example:"false"`
	// Whether VPN routes that leave by the same PE share one next hop in the kernel, so that all of them move at once (BGP prefix independent convergence). Without it each route is replaced by itself.
	PIC bool `yaml:"pic" jsonschema:"default=true" example:"false"`
	// BGP's hold timer, in whole seconds and at least 3s: after so long without a word a speaker is taken for gone. Keepalives go three times as often.
	Hold Duration `yaml:"hold,omitempty" jsonschema:"default=9s" example:"3s"`
}

// What Recovery.Detect may hold.
const (
	DetectNone     = "none"
	DetectCarrier  = "carrier"
	DetectBFD      = "bfd"
	DetectMultihop = "bfd-multihop"
)

// What Recovery.Local may be.
const (
	LocalNone   = "none"
	LocalBackup = "backup-lsp"
)

// minInterval of BFD packets: below it User Mode Linux, in which a packet costs
// a tenth of a millisecond and all routers share a processor, does nothing else.
const minInterval = 10 * time.Millisecond

// Detects says whether failures are found in that way. It may be asked of nil,
// where nothing recovers by itself; so may all that follow.
func (r *Recovery) Detects(by string) bool { return r != nil && slices.Contains(r.Detect, by) }

// Reflexes says whether routers notice failures by themselves, without BGP.
func (r *Recovery) Reflexes() bool {
	return r.Detects(DetectCarrier) || r.Detects(DetectBFD) || r.Detects(DetectMultihop)
}

// Repairs says whether routers go around a failure next to them.
func (r *Recovery) Repairs() bool { return r.Reflexes() && r.Local == LocalBackup }

// Reroutes says whether the controller computes paths anew.
func (r *Recovery) Reroutes() bool { return r != nil && r.Reroute }

// Shares says whether VPN routes share next hops.
func (r *Recovery) Shares() bool { return r != nil && r.PIC }

// Multihop is how often PEs send BFD packets to each other.
func (r *Recovery) Multihop() time.Duration {
	if r.MultihopInterval != 0 {
		return r.MultihopInterval.Std()
	}
	return 3 * r.Interval.Std()
}

// WithRecovery is the plan with another way to recover, nil for none. Nothing
// is numbered anew.
func (p *Plan) WithRecovery(r *Recovery) *Plan {
	q := *p
	q.Recovery = r.clone()
	q.route()
	q.settle(false, "")
	q.raiseTopLabel()
	return &q
}

func (r *Recovery) clone() *Recovery {
	if r == nil {
		return nil
	}
	c := *r
	c.Detect = slices.Clone(r.Detect)
	return &c
}

// recovery reports what is wrong with how the backbone recovers.
func (c *checker) recovery(r *Recovery) {
	if r == nil {
		return
	}
	at := func(key ...any) []string { return append(path("topology", "backbone", "recovery"), path(key...)...) }
	for i, by := range r.Detect {
		if slices.Contains(r.Detect[:i], by) && by != "" {
			c.fault(at("detect", i), fmt.Sprintf("%s is here twice", by), "")
		}
	}
	if slices.Contains(r.Detect, DetectNone) && len(r.Detect) > 1 {
		c.fault(at("detect"), "none stands beside a way to detect; expected none alone, or without it", "")
	}
	for _, k := range []struct {
		key   string
		value Duration
	}{{"interval", r.Interval}, {"multihop-interval", r.MultihopInterval}} {
		if k.value != 0 && k.value.Std() < minInterval || k.value == 0 && c.given(at(k.key)) {
			c.fault(at(k.key), fmt.Sprintf("%s is too often for a kernel in which each packet costs a tenth of a millisecond; expected at least 10ms", k.value), "")
		}
	}
	if d := r.Interval.Std(); d > maxInterval {
		c.fault(at("interval"), fmt.Sprintf("%s is too long; expected at most %s", r.Interval, Duration(maxInterval)), "")
	}
	if h := r.Hold.Std(); h < 3*time.Second || h%time.Second != 0 || h > maxHold {
		c.fault(at("hold"), fmt.Sprintf("%s cannot be a hold time of BGP; expected whole seconds, at least 3s and at most %s", r.Hold, Duration(maxHold)), "")
	}
}

// maxInterval of BFD packets: the protocol counts it in 32 bits of
// microseconds; maxHold of BGP likewise, in 16 bits of seconds.
const (
	maxInterval = 20 * time.Minute
	maxHold     = 65535 * time.Second
)

// given says whether the file has a value at path that is of the right form.
func (c *checker) given(path []string) bool {
	_, _, whole := c.doc.locate(path)
	return whole && !c.lost(path...)
}
