package fidelity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// Lab is what a calibration needs of a lab: a *lab.Lab of the name that Name
// says.
type Lab interface {
	Apply(ctx context.Context, plan *topo.Plan) (*lab.Timeline, error)
	Operate(ctx context.Context, op topo.Operation, opt lab.ApplyOptions) (*lab.Timeline, error)
	Destroy(ctx context.Context) error
	Plan() *topo.Plan
	Fabric() *fabric.Fabric
	Occupy() (leave func(), err error)
}

var _ Lab = (*lab.Lab)(nil)

// Name is the lab's.
const Name = labName

// The systems that are measured.
const (
	systemVPCLab  = "vpclab"
	systemMininet = "mininet"
)

// Request says what to measure.
type Request struct {
	Only  []string  `json:"only,omitempty"` // tests by name; none: all
	Quick bool      `json:"quick,omitempty"`
	From  topo.Rate `json:"from,omitempty"`  // slowest link
	UpTo  topo.Rate `json:"up_to,omitempty"` // fastest link; 0: 1 Gb/s
	Peer  string    `json:"peer,omitempty"`  // mininet, or ""
}

// Progress is told of each step.
type Progress func(text string)

// test is an entry of the list of tests.
type test struct {
	name, says string
	do         func(r *run, ctx context.Context) error
}

// tests in their order. F9 is watched during trials and F12 compares two
// calibrations.
var tests = []test{
	{"F1", "time between frames on lines that are kept busy", func(r *run, ctx context.Context) error { return r.gaps(ctx, labBench(r.lab)) }},
	{"F2", "goodput of UDP and TCP against the rate", func(r *run, ctx context.Context) error { return r.goodputs(ctx, labBench(r.lab)) }},
	{"F3", "delays, and the spread and form of jitter", func(r *run, ctx context.Context) error { return r.delaysAndJitter(ctx, labBench(r.lab)) }},
	{"F4", "loss, with exact intervals", func(r *run, ctx context.Context) error { return r.losses(ctx, labBench(r.lab)) }},
	{"F5", "round trips through random graphs against the sum of their links", func(r *run, ctx context.Context) error { return r.paths(ctx) }},
	{"F6", "drops and the longest wait of a full queue", func(r *run, ctx context.Context) error { return r.queues(ctx, labBench(r.lab)) }},
	{"F7", "a link whose neighbours are busy", func(r *run, ctx context.Context) error { return r.isolation(ctx) }},
	{"F8", "lateness of timers, and shares of the CPU", func(r *run, ctx context.Context) error { return r.timers(ctx) }},
	{"F10", "every label of every packet on every core link, and split horizon", func(r *run, ctx context.Context) error { return r.labels(ctx) }},
	{"F11", "what labels cost beside plain IP over as many hops", func(r *run, ctx context.Context) error { return r.overhead(ctx) }},
}

// Tests are the names of all tests that Run does.
func Tests() (names []string) {
	for _, t := range tests {
		names = append(names, t.name)
	}
	return names
}

// Once are the tests that one boot of a kernel can do.
func (q Request) Once() (names []string) {
	for _, name := range Tests() {
		if len(q.Only) == 0 || slices.Contains(q.Only, name) {
			names = append(names, name)
		}
	}
	return names
}

// Check finds what is wrong with a request.
func (q Request) Check() error {
	for _, name := range q.Only {
		if name != twice && !slices.Contains(Tests(), name) {
			return fmt.Errorf("there is no test %q; tests are %s and %s", name, strings.Join(Tests(), ", "), twice)
		}
	}
	if q.Peer != "" && q.Peer != systemMininet {
		return fmt.Errorf("there is no peer %q; there is %s", q.Peer, systemMininet)
	}
	return nil
}

// twice is the name of the test that compares two boots.
const twice = "F12"

// run is a calibration under way.
type run struct {
	Request
	lab  Lab
	tell Progress
	out  metrics.Calibration
}

// Run measures. The lab is built and changed as the tests need it, and is
// destroyed at the end. The error is for what could not be measured; what was
// measured before comes with it.
func Run(ctx context.Context, l Lab, q Request, tell Progress) (*metrics.Calibration, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	if q.UpTo == 0 {
		q.UpTo = 1e9
	}
	if tell == nil {
		tell = func(string) {}
	}
	r := &run{Request: q, lab: l, tell: tell}
	r.out = metrics.Calibration{Kind: "calibration", Schema: metrics.CalibrationSchema, Started: time.Now(), Quick: q.Quick}
	var err error
	for _, t := range tests {
		if !slices.Contains(q.Once(), t.name) {
			continue
		}
		if err = t.do(r, ctx); err != nil {
			err = fmt.Errorf("calibrate: %s: %w", t.name, err)
			break
		}
	}
	if err == nil {
		if err = r.peer(ctx); err != nil {
			err = fmt.Errorf("calibrate: %w", err)
		}
	}
	r.out.TookS = time.Since(r.out.Started).Seconds()
	end, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), endLimit, fmt.Errorf("the lab did not go within %v", endLimit))
	defer cancel()
	if e := l.Destroy(end); e != nil && err == nil {
		err = e
	}
	return &r.out, err
}

const endLimit = time.Minute

func (r *run) add(c ...metrics.Calibrated) { r.out.Results = append(r.out.Results, c...) }

// within are the rates that are asked for.
func (q Request) within(rates []topo.Rate) (some []topo.Rate) {
	for _, rate := range rates {
		if rate >= q.From && rate <= q.UpTo {
			some = append(some, rate)
		}
	}
	return some
}

func (r *run) say(test string, b *bench, what string) {
	text := test + " " + what
	if b != nil && b.system != systemVPCLab {
		text += " (" + b.system + ")"
	}
	r.tell(text)
}

// Describe lists the tests, a line each, for help texts.
func Describe() string {
	var b strings.Builder
	for _, t := range tests {
		fmt.Fprintf(&b, "  %-4s %s\n", t.name, t.says)
	}
	fmt.Fprintf(&b, "  %-4s %s\n", twice, "F2 and F3 once more in another boot of the kernel")
	return b.String()
}
