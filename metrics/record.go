package metrics

import "time"

// Sample is one measured value: a row of samples.csv. Metric names are dotted
// and lower case, units are written as in Go benchmarks ("s", "bytes",
// "count", "bit/s"). Labels hold the varied parameters and what tells systems
// apart (system=vpn, system=firewall).
type Sample struct {
	Experiment string            `json:"experiment"`
	Trial      int               `json:"trial"` // from 1 within a point
	Metric     string            `json:"metric"`
	Unit       string            `json:"unit"`
	Value      float64           `json:"value"`
	Labels     map[string]string `json:"labels,omitempty"`
}

// RunInfo is run.json: enough to run again and to judge the numbers by.
type RunInfo struct {
	Schema   int               `json:"schema"` // version of the results format, as [Schema]
	ID       string            `json:"id"`
	Scenario string            `json:"scenario"` // name
	File     string            `json:"file"`
	Source   string            `json:"source"` // the scenario's exact text
	Seed     uint64            `json:"seed"`
	Started  time.Time         `json:"started"`
	Finished time.Time         `json:"finished,omitzero"`
	Version  string            `json:"version"`  // vpclab's
	Versions map[string]string `json:"versions"` // go, gobgp, netlink …
	Kernel   KernelInfo        `json:"kernel"`
	Host     HostInfo          `json:"host"`
	Args     []string          `json:"args"`
	// Program is the SHA-256 of vpclab's binary.
	Program string `json:"program,omitempty"`
	PID     int    `json:"pid,omitempty"` // of the launcher, on its host
	// Verb is what was done: "run", "reproduce cloudnet". Flags are those of its
	// flags that bear on what is measured, with the values that held, given or
	// not. With Source and Seed they are all that it takes to run again.
	Verb  string              `json:"verb,omitempty"`
	Flags map[string][]string `json:"flags,omitempty"`
	// Origin is the run that this one repeats.
	Origin  *Origin `json:"origin,omitempty"`
	Verdict string  `json:"verdict"` // running | pass | fail | interrupted | error
	Error   string  `json:"error,omitempty"`
	// Outcomes are the judged expectations, in the scenario's order.
	Outcomes []Outcome `json:"outcomes,omitempty"`
	// Claims are the scenario's claims with what came of each.
	Claims []ClaimOutcome `json:"claims,omitempty"`
	// Sessions are the stretches in which the run was done, the first one first.
	// Version, Kernel, Host and Args above are those of the first.
	Sessions []Session `json:"sessions,omitempty"`
	// Sums is the SHA-256 of SHA256SUMS.
	Sums string `json:"sums,omitempty"`
}

// Verdicts of a run. A run that was killed stays VerdictRunning.
const (
	VerdictRunning     = "running"
	VerdictPass        = "pass"
	VerdictFail        = "fail"
	VerdictInterrupted = "interrupted"
	VerdictError       = "error"
)

// KernelInfo names the kernel and the clock that the figures were taken on.
type KernelInfo struct {
	Substrate string `json:"substrate"` // host | uml | qemu
	Release   string `json:"release"`   // uname -r inside
	Clock     string `json:"clock"`     // monotonic | virtual
	CPUs      int    `json:"cpus"`
	MemoryMiB int    `json:"memory_mib"`
	Image     string `json:"image,omitempty"` // SHA-256 of the kernel's image or program
	// Virtual tells, where Clock is virtual, what the machine was made of.
	Virtual *VirtualInfo `json:"virtual,omitempty"`
}

// VirtualInfo is what a run on the virtual clock needs to be the same again.
type VirtualInfo struct {
	Emulator string  `json:"emulator"`         // program and version
	Machine  string  `json:"machine"`          // model of machine and CPU
	Image    string  `json:"image"`            // SHA-256 of the kernel image
	Program  string  `json:"program"`          // SHA-256 of vpclab's own binary inside
	Shift    int     `json:"shift"`            // an instruction takes 2^Shift ns of the emulator
	Speed    int     `json:"speed,omitempty"`  // the emulator's ns in one of the run's; 0: 1
	Seed     uint64  `json:"seed"`             // of the machine's random numbers
	VirtualS float64 `json:"virtual_s"`        // how long the run took on its own clock
	WallS    float64 `json:"wall_s"`           // and on the wall's
	Digest   string  `json:"digest,omitempty"` // SHA-256 over samples.csv
}

// HostInfo is the machine underneath.
type HostInfo struct {
	OS      string  `json:"os"`
	Kernel  string  `json:"kernel"`
	CPU     string  `json:"cpu"`
	CPUs    int     `json:"cpus"`
	LoadMin float64 `json:"load_start"` // 1-minute load average at the start
	LoadEnd float64 `json:"load_end"`
}

// Matrix is the evidence of a reachability probe: who was allowed to reach
// whom and who did. Rows are senders, columns receivers.
type Matrix struct {
	Endpoints []MatrixEndpoint `json:"endpoints"`
	// Cells[i] is row i, one byte a column: '.' self, 'A' allowed and
	// reached, 'a' allowed but not reached (a failure), 'f' forbidden and not
	// reached, 'L' forbidden but reached (a leak), '=' forbidden and with the
	// sender's own address: its packets to that address never leave it.
	Cells []string `json:"cells"`
}

// MatrixEndpoint is one machine of a Matrix.
type MatrixEndpoint struct {
	Name string `json:"name"`
	VPC  string `json:"vpc"`
	Site string `json:"site"`
	Addr string `json:"addr"`
}

// Train is the evidence of a probe train, stored as train.json in a trial: a
// steady stream of probes over some pairs while something happens to the lab
// (a site joins, a site leaves).
type Train struct {
	Probes []TrainProbe `json:"probes"`
	Marks  []TrainMark  `json:"marks"`
}

// TrainProbe is one probe of a Train.
type TrainProbe struct {
	T    float64 `json:"t"` // seconds since the train began, when it was sent
	From string  `json:"from"`
	To   string  `json:"to"`
	OK   bool    `json:"ok"` // it came through
}

// TrainMark is something that happened while the train ran.
type TrainMark struct {
	T    float64 `json:"t"`    // seconds since the train began
	Name string  `json:"name"` // "join requested", "join programmed", "leave withdrawn"
}

// Flows is the evidence of TCP flows beside each other and of probes
// meanwhile, stored as flows-<system>.json in a trial. Times are seconds since
// the first flow began.
type Flows struct {
	Reserved float64      `json:"reserved_bit_s"` // the rate that is reserved, headers included
	Line     float64      `json:"line_bit_s"`     // that of the link which the flows share
	BinS     float64      `json:"bin_s"`          // width of a bin of the flows' series
	Flows    []FlowSeries `json:"flows"`
	Delays   []FlowDelays `json:"delays"`
	Marks    []TrainMark  `json:"marks"`
}

// FlowSeries is one TCP flow.
type FlowSeries struct {
	From       string    `json:"from"`
	To         string    `json:"to"`
	Class      string    `json:"class"`                   // reserved | other
	Offered    float64   `json:"offered_bit_s,omitempty"` // 0: all that TCP takes
	Goodput    []float64 `json:"goodput_bit_s"`           // payload that arrived; bin i begins at i*BinS
	Resent     int       `json:"resent_segments"`
	Congestion string    `json:"congestion"`
}

// FlowDelays is one stream of small probes.
type FlowDelays struct {
	From   string       `json:"from"`
	To     string       `json:"to"`
	Class  string       `json:"class"`
	Probes []DelayProbe `json:"probes"`
}

// DelayProbe is one probe and how long it was under way.
type DelayProbe struct {
	T     float64 `json:"t"`                 // when it was sent
	Delay float64 `json:"delay_s,omitempty"` // one way; 0: it was lost
}

// Statuses of a trial.
const (
	StatusOK     = "ok"
	StatusFailed = "failed"
)

// TrialRecord is trial.json and a line of trials.jsonl.
type TrialRecord struct {
	Experiment string            `json:"experiment"`
	Point      map[string]string `json:"point"` // varied parameters
	Trial      int               `json:"trial"`
	Attempt    int               `json:"attempt"`
	Session    int               `json:"session,omitempty"` // of the run's, from 1; 0: of a version that kept none
	Status     string            `json:"status"`            // ok | failed
	Error      string            `json:"error,omitempty"`
	Started    time.Time         `json:"started"`
	WallS      float64           `json:"wall_s"`
	// Fidelity is nil where nothing watched the trial: in results of older versions.
	Fidelity *Fidelity `json:"fidelity,omitempty"`
}
