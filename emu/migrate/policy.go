package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vpclab/vpclab/emu/migrate/codec"
)

// Algorithms are the names that Options.Algorithm may have.
var Algorithms = []string{StopAndCopy, Xen30, Xen5, SmartStop, CBR, Deltas, CloudNet, PostCopy, Hybrid, Own}

// plan is an algorithm taken apart: which rounds, which encoders.
type plan struct {
	codec codec.Config
	// live is how many rounds are sent at most while the VM runs.
	live int
	// factor is how many times the memory may be sent before the last round; 0:
	// no bound.
	factor int
	// few is how many pages are so few that the last round may begin.
	few int
	// fewSent counts pages of the round that ends, as Xen 3 and 4 do; else
	// those of the round to come, as Xen does since 4.7.
	fewSent bool
	// skip leaves out pages that are dirty again when their turn comes.
	skip bool
	// window is that of CloudNet's stop rule; 0: not used.
	window int
	// own is our own schedule, see own.go.
	own bool
	// post hands over after the live rounds and sends what is missing then.
	post bool
}

// Xen's numbers (tools/libxc/xc_domain_save.c and tools/libs/guest/xg_sr_save.c).
const (
	xenLive   = 29 // DEF_MAX_ITERS: of 30 iterations the last is sent while the VM stands
	xenFactor = 3  // DEF_MAX_FACTOR
	xenFew    = 50 // pages of a VM of 1 GiB
	xen5Live  = 5  // SPP_MAX_ITERATIONS: live, and one more while it stands
)

// plan resolves options for a memory of so many pages.
func (o *Options) plan(pages int) (plan, error) {
	p := plan{few: o.Few}
	if p.few == 0 {
		p.few = max(4, xenFew*pages/(1<<30/PageSize))
	}
	xen := func() { p.live, p.factor, p.fewSent, p.skip = xenLive, xenFactor, true, true }
	smart := func() {
		if p.window = o.Window; p.window == 0 {
			p.window = 3 // not printed; with it Smart Stop ends after about as many rounds as printed
		}
	}
	// Xen sends a page of zeros like any other, so the published algorithms do:
	// CloudNet finds it in its cache. Post-copy leaves free pages out (Hines and
	// Gopalan, section 3.4).
	c := codec.Config{Pages: pages, Block: o.Block, Cache: o.Cache}
	switch o.Algorithm {
	case StopAndCopy:
	case Xen30:
		xen()
	case Xen5:
		p.live = xen5Live
	case SmartStop:
		xen()
		smart()
	case CBR:
		xen()
		c.CBR = true
	case Deltas:
		xen()
		c.Delta = true
	case CloudNet:
		xen()
		smart()
		c.CBR, c.Delta = true, true
	case PostCopy:
		p.post = true
		c.Zero = true
	case Hybrid:
		p.post, p.live = true, 1
		c.Zero = true
	case Own:
		p.own = true
		c.Own, c.Zero = true, true
	default:
		return p, fmt.Errorf("algorithm %q: there are %s", o.Algorithm, strings.Join(Algorithms, ", "))
	}
	if len(o.Encoders) > 0 {
		c = codec.Config{Pages: pages, Block: o.Block, Cache: o.Cache}
	}
	if c.CBR || slices.Contains(o.Encoders, "cbr") {
		c.HashBits, c.Unverified = o.HashBits, o.Unverified
	}
	c, err := codec.Parse(c, o.Encoders)
	if err != nil {
		return p, err
	}
	switch o.Verify {
	case "", "online", "pause":
	default:
		return p, fmt.Errorf("verification %q: there are online and pause", o.Verify)
	}
	p.codec = c
	return p, nil
}

// rules decide, round by round, when to stop.
type rules struct {
	plan
	pages int
	round int   // rounds sent
	sent  int64 // pages sent in all
	// CloudNet's stop rule: turned is when a round dirtied more pages than it
	// sent; from then on lows are the pages to send of the last rounds.
	turned bool
	lows   []int
}

// afterRound decides when a live round has been sent.
func (r *rules) afterRound(sent, skipped int) (last bool) {
	r.round++
	r.sent += int64(sent)
	return r.round >= r.live ||
		r.fewSent && sent+skipped < r.few ||
		r.factor > 0 && r.sent > int64(r.factor)*int64(r.pages)
}

// beforeRound decides when it is known what the next round has to send; sent
// is what the one before it sent.
func (r *rules) beforeRound(sent, toSend int) (last bool) {
	if !r.fewSent && toSend < r.few {
		return true
	}
	if r.window == 0 {
		return false
	}
	// A local minimum: fewer pages to send than at any time in the window. The
	// window has to be full: what came before the curve turned was falling
	// anyway.
	if r.turned {
		if len(r.lows) == r.window && toSend < slices.Min(r.lows) {
			return true
		}
		if r.lows = append(r.lows, toSend); len(r.lows) > r.window {
			r.lows = r.lows[1:]
		}
	}
	if toSend > sent {
		r.turned = true
	}
	return false
}
